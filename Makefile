# The targets that developers and CI use. `make help` lists them.

GO      ?= go
BIN     := bin
TOOLS   := $(CURDIR)/.cache/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= $(shell sed -n 's|^ *image: \(.*/snapdriver:.*\)|\1|p' deploy/base/daemonset.yaml)

# The end-to-end tests are a module of their own. Everything is compiled as the
# cluster's programs are (-trimpath, no cgo), hence once, in whichever directory.
E2E := cd test/e2e && GOFLAGS="$$($(GO) env GOFLAGS) -trimpath" CGO_ENABLED=0

# Pinned; built from source into .cache, for it must know our Go version.
GOLANGCI_LINT := $(TOOLS)/golangci-lint-v2.15.0
GOVULNCHECK   := $(TOOLS)/govulncheck-v1.8.0

# How long "make fuzz" runs each test, and which.
FUZZTIME ?= 1m
FUZZ     ?= .

# Which benchmarks "make bench" runs, and where its tables and figures go.
BENCH     ?= .
BENCH_OUT ?= $(BIN)/bench

# One package after the other (-p 1): the demo has a mount namespace of its own,
# which for its time also holds the mounts that the tests of another package
# have made and want to take away. The two that take longest run at once: one
# leaves a processor idle for most of the time, and the other does all in guests.
# No results of earlier runs (-count=1): some tests run the built binary, of whose
# sources go test knows nothing. The race detector needs a C compiler.
TESTFLAGS ?= $(shell command -v gcc >/dev/null && echo -race) -timeout 60m

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/snapdriver
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN)/snapdriver ./cmd/snapdriver

.PHONY: demo
demo: build ## See a snapshot taken and restored through the real server
	$(BIN)/snapdriver demo

.PHONY: test
test: setup ## Run every test: conformance, crashes, csi-sanity, Kubernetes (root for most)
	$(GO) test $(TESTFLAGS) -run '^$$' ./... >/dev/null # builds, several packages at once
	$(GO) test $(TESTFLAGS) -p 1 -count=1 $(filter-out %/test/torture %/test/vm,$(shell $(GO) list ./...))
	$(GO) test $(TESTFLAGS) -p 2 -count=1 ./test/torture ./test/vm
	$(MAKE) test-e2e

.PHONY: test-unit
test-unit: ## Run what needs neither root nor a minute
	$(GO) test -short ./...

.PHONY: test-lvm
test-lvm: setup ## Run what needs thin pools, in a virtual machine unless the kernel has them
	SNAPDRIVER_REQUIRE_ALL=1 SNAPDRIVER_REQUIRE_LVM=1 $(GO) test -v -p 1 -count=1 -timeout 60m -run 'TestGuest|TestPowerCut/lvm' ./test/vm ./test/torture

.PHONY: torture
torture: setup ## Run the torture suite for long: the machine, killed and raced and filled (root)
	$(GO) test -v -count=1 -timeout 60m ./test/torture -torture.scale 3 # without the race detector, which "make test" has

.PHONY: test-e2e
test-e2e: setup ## Test the manifests, and the driver on a Kubernetes cluster made for it (root)
	$(E2E) $(GO) test -count=1 ./manifests ./cmd/...
	$(E2E) $(GO) test -v -count=1 -timeout 60m .

.PHONY: test-external
test-external: setup ## Run all of Kubernetes' own storage tests that apply, an hour or so
	$(E2E) $(GO) test -v -count=1 -timeout 4h -run External . -all

REPORTS := $(CURDIR)/.cache/conformance

.PHONY: conformance
conformance: setup ## Run the tests of others, an hour or so, and write docs/conformance.md
	mkdir -p $(REPORTS)
	$(E2E) $(GO) test -v -count=1 -timeout 6h -run External . -all -reports=$(REPORTS)
	$(GO) test -v -count=1 -timeout 30m ./test/sanity >$(REPORTS)/sanity.log
	CGO_ENABLED=0 $(GO) test -v -count=1 -timeout 60m -exec "$(GO) run github.com/snapdriver/snapdriver/test/vm/run" ./test/sanity >$(REPORTS)/sanity-lvm.log
	$(E2E) $(GO) run ./cmd/conformance $(REPORTS) >$(REPORTS)/conformance.md
	cp $(REPORTS)/conformance.md docs/

.PHONY: e2e-up
e2e-up: setup ## Start that cluster with the driver, to try things out; the first time this compiles Kubernetes
	$(E2E) SNAPDRIVER_REQUIRE_ALL=1 $(GO) test -v -count=1 -timeout 60m -run '^$$' . -keep
	@echo "export KUBECONFIG=$$($(E2E) $(GO) run ./cmd/cluster kubeconfig)"

.PHONY: e2e-down
e2e-down: ## End that cluster, and remove all that it wrote
	$(E2E) $(GO) run ./cmd/cluster -root $(CURDIR) down

.PHONY: sanity
sanity: setup ## Run csi-sanity only, and count what it skips
	$(GO) test -v -count=1 -timeout 30m ./test/sanity

.PHONY: bench
bench: setup build ## Compare with the floors: cp --reflink, tar, FICLONE (root); BENCH=Scale for one, BENCH_OUT=docs/performance
	SNAPDRIVER_BINARY=$(CURDIR)/$(BIN)/snapdriver $(GO) test -run '^$$' -bench '$(BENCH)' -benchtime 5x -timeout 2h ./test/bench | tee $(BIN)/bench.txt
	$(GO) run ./test/bench/report -out $(BENCH_OUT) <$(BIN)/bench.txt

.PHONY: fuzz
fuzz: ## Fuzz all that reads what others wrote, FUZZTIME each (1m), as many at once as there are processors; FUZZ=Tar for some
	hack/fuzz.sh '$(FUZZTIME)' '$(FUZZ)'

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters, the import rule among them
	$(GOLANGCI_LINT) run
	$(E2E) $(GOLANGCI_LINT) run

.PHONY: vulncheck
vulncheck: $(GOVULNCHECK) ## Look for known vulnerabilities (GOVULNDB=... names another database)
	hack/vulncheck.sh $(GOVULNCHECK)

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the code
	$(GOLANGCI_LINT) fmt
	$(E2E) $(GOLANGCI_LINT) fmt

.PHONY: verify
verify: lint vulncheck ## Check all that is not a test: lint, known vulnerabilities, format, go.mod, shell scripts
	$(GOLANGCI_LINT) fmt --diff
	$(E2E) $(GOLANGCI_LINT) fmt --diff
	$(GO) mod tidy -diff
	$(E2E) $(GO) mod tidy -diff
	hack/setup.sh shellcheck
	shellcheck hack/*.sh .ci/run

.PHONY: image
image: ## Build the container image with docker, podman or buildah
	hack/image.sh $(IMAGE) $(VERSION)

.PHONY: deploy
deploy: ## Install the driver in the cluster of kubectl, and wait for it (OVERLAY=directory)
	hack/deploy.sh up $(OVERLAY)

.PHONY: undeploy
undeploy: ## Take it away again, unless volumes or snapshots of it remain
	hack/deploy.sh down $(OVERLAY)

.PHONY: snapshot-controller
snapshot-controller: ## Install the snapshot controller and its CRDs where they are missing
	hack/snapshot-controller.sh

.PHONY: setup
setup:
	@hack/setup.sh

$(GOLANGCI_LINT):
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv $(TOOLS)/golangci-lint $@

$(GOVULNCHECK):
	GOBIN=$(TOOLS) $(GO) install golang.org/x/vuln/cmd/govulncheck@v1.8.0
	mv $(TOOLS)/govulncheck $@
