#!/usr/bin/env bash
# Builds the container image with whichever builder is installed.
#
# Usage: hack/image.sh IMAGE VERSION
set -euo pipefail
cd "$(dirname "$0")/.."

for builder in docker podman buildah; do
    if command -v "$builder" >/dev/null; then
        exec "$builder" build --build-arg "VERSION=$2" --tag "$1" .
    fi
done
echo "image: no docker, podman or buildah on the PATH; install one" >&2
exit 1
