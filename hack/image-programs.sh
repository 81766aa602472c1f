#!/usr/bin/env bash
# Puts programs of this Debian, what they need to run, and nothing else into a
# directory that can be the root of a container: it has no shell.
#
# Usage: hack/image-programs.sh DIRECTORY PROGRAM ...
set -euo pipefail

root=$1
shift

# Debian has merged these directories into /usr, and programs look in either.
mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
for dir in bin sbin lib lib64; do
    ln -s "usr/$dir" "$root/$dir"
done
mkdir -m 1777 "$root/tmp"

programs=()
for program; do
    programs+=("$(type -P "$program" || { echo "image: $program is not installed" >&2; exit 1; })")
done
loaded=$(ldd "${programs[@]}" | grep -o '/[^ ]* (0x' | sed 's/ (0x$//' | sort -u)
mapfile -t libraries <<<"$loaded"
cp --dereference --parents "${programs[@]}" "${libraries[@]}" "$root"

# Their settings.
cp --recursive --parents /etc/mke2fs.conf /etc/lvm "$root"

# What is in the image, for those who scan images for known vulnerabilities.
status=$root/var/lib/dpkg/status.d
mkdir -p "$status"
for file in "${programs[@]}" "${libraries[@]}"; do
    file=$(realpath "$file")
    # A package may know its file by either name. One of the two is not found.
    package=$({ dpkg-query --search "$file" "${file#/usr}" 2>/dev/null || true; } | sed 's/:.*//' | sort -u)
    [ -e "$status/$package" ] || dpkg-query --status "$package" >"$status/$package"
done
