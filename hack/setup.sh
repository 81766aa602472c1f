#!/usr/bin/env bash
# Installs the programs that the tests need and this machine lacks: Debian
# packages, by apt-get, as root. Where that is not possible it says what is
# missing; the tests that need it then skip, with the same reason.
#
# Usage: hack/setup.sh [PROGRAM ...]     (default: what the tests need)
set -euo pipefail

# program:package, or file:package
known="mkfs.ext4:e2fsprogs resize2fs:e2fsprogs mkfs.xfs:xfsprogs xfs_growfs:xfsprogs mkfs.btrfs:btrfs-progs
blkid:util-linux losetup:mount mount:mount setfattr:attr setfacl:acl tar:tar zstd:zstd lvm:lvm2 thin_check:thin-provisioning-tools gcc:gcc /usr/include/stdlib.h:libc6-dev
qemu-system-x86_64:qemu-system-x86 depmod:kmod
containerd:containerd runc:runc pkill:procps /usr/lib/cni/bridge:containernetworking-plugins busybox:busybox-static ip:iproute2 shellcheck:shellcheck"
wanted=${*:-$(tr ' ' '\n' <<<"$known" | sed 's/:.*//' | grep -v shellcheck)}

# An ordinary user's PATH often lacks the sbin directories.
PATH=$PATH:/usr/sbin:/sbin

packages=()
for program in $wanted; do
    if command -v "$program" >/dev/null || [ -e "$program" ]; then continue; fi
    package=$(tr ' ' '\n' <<<"$known" | sed -n "s|^$program:||p")
    packages+=("${package:?no package is known for $program}")
done
[ ${#packages[@]} -gt 0 ] || exit 0
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: missing: ${packages[*]} (install them as root; tests that need them skip)" >&2
    exit 0
fi
echo "setup: installing ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
