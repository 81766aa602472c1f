# The base of the first two stages is the Debian that CI runs on, so that what
# is shipped is what was tested.
FROM docker.io/library/golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /snapdriver ./cmd/snapdriver

FROM docker.io/library/debian:bookworm-slim AS programs
RUN apt-get update \
    && apt-get install -y --no-install-recommends e2fsprogs xfsprogs btrfs-progs lvm2 thin-provisioning-tools util-linux
COPY hack/image-programs.sh /
RUN /image-programs.sh /image mkfs.ext4 e2fsck resize2fs tune2fs mkfs.xfs xfs_growfs mkfs.btrfs btrfs blkid blockdev lvm dmsetup thin_check

# No shell: nothing that the driver runs needs one.
FROM scratch
COPY --from=programs /image /
COPY --from=build /snapdriver /usr/local/bin/snapdriver
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin
# Root, and privileged: see "Where it may run" in docs/design.md.
ENTRYPOINT ["/usr/local/bin/snapdriver"]
CMD ["--endpoint=unix:///csi/csi.sock", "--root=/var/lib/snapdriver"]
