# The base of both stages is the Debian that CI runs on, so that what is
# shipped is what was tested.
FROM docker.io/library/golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /snapdriver ./cmd/snapdriver

FROM docker.io/library/debian:bookworm-slim
# mkfs, resize2fs, dumpe2fs | mkfs.xfs, xfs_growfs, xfs_io | mkfs.btrfs, btrfstune | lvm | thin_check | mount, umount, losetup | blkid, blockdev
RUN apt-get update \
    && apt-get install -y --no-install-recommends e2fsprogs xfsprogs btrfs-progs lvm2 thin-provisioning-tools mount util-linux \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=build /snapdriver /usr/local/bin/snapdriver
# Root, and privileged: see "Where it may run" in docs/design.md.
ENTRYPOINT ["/usr/local/bin/snapdriver"]
CMD ["--endpoint=unix:///csi/csi.sock", "--root=/var/lib/snapdriver"]
