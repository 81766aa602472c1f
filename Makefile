# The targets that developers and CI use. `make help` lists them.

GO      ?= go
BIN     := bin
TOOLS   := $(CURDIR)/.cache/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= ghcr.io/snapdriver/snapdriver:$(VERSION)

# Pinned; built from source into .cache, for it must know our Go version.
GOLANGCI_LINT := $(TOOLS)/golangci-lint-v2.15.0

# One package after the other (-p 1): the demo has a mount namespace of its own,
# which for its time also holds the mounts that the tests of another package
# have made and want to take away. No results of earlier runs (-count=1): some
# tests run the built binary, of whose sources go test knows nothing. The race
# detector needs a C compiler.
TESTFLAGS ?= $(shell command -v gcc >/dev/null && echo -race) -timeout 30m

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/snapdriver
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN)/snapdriver ./cmd/snapdriver

.PHONY: demo
demo: build ## See a snapshot taken and restored through the real server
	$(BIN)/snapdriver demo

.PHONY: test
test: setup ## Run every test: units, conformance, crashes, csi-sanity (root for most)
	$(GO) test $(TESTFLAGS) -run '^$$' ./... >/dev/null # builds, several packages at once
	$(GO) test $(TESTFLAGS) -p 1 -count=1 ./...

.PHONY: test-unit
test-unit: ## Run what needs neither root nor a minute
	$(GO) test -short ./...

.PHONY: sanity
sanity: setup ## Run csi-sanity only, and count what it skips
	$(GO) test -v -count=1 -timeout 30m ./test/sanity

.PHONY: bench
bench: setup ## Compare with the floors: cp --reflink, tar, FICLONE (root)
	$(GO) test -run '^$$' -bench . -benchtime 5x -timeout 60m ./test/bench

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters, the import rule among them
	$(GOLANGCI_LINT) run

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the code
	$(GOLANGCI_LINT) fmt

.PHONY: verify
verify: lint ## Check all that is not a test: lint, format, go.mod, shell scripts
	$(GOLANGCI_LINT) fmt --diff
	$(GO) mod tidy -diff
	hack/setup.sh shellcheck
	shellcheck hack/*.sh .ci/run

.PHONY: image
image: ## Build the container image with docker, podman or buildah
	hack/image.sh $(IMAGE) $(VERSION)

.PHONY: setup
setup:
	@hack/setup.sh

$(GOLANGCI_LINT):
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv $(TOOLS)/golangci-lint $@
