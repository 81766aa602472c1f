#!/usr/bin/env bash
# Gives the cluster that kubectl talks to what VolumeSnapshots need beside a CSI
# driver: their CRDs and the snapshot controller. What is there already stays as
# it is; nothing is ever taken away. Two controllers would get in each other's way.
# So where the CRDs are there and no controller is to be seen, which may run where
# the cluster's provider keeps it, none is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "snapshot-controller: $*"; }
version=$(sed -n 's|.*/snapshot-controller:||p' deploy/snapshot-controller/deployment.yaml)

missing=()
for kind in volumesnapshots volumesnapshotcontents volumesnapshotclasses; do
    kubectl get crd "$kind.snapshot.storage.k8s.io" >/dev/null 2>&1 || missing+=("$kind")
done

if [ ${#missing[@]} -eq 0 ]; then
    say "the CRDs are there already"
else
    # See deploy/snapshot-controller/README.md for the way without Go.
    module=github.com/kubernetes-csi/external-snapshotter/client/v8@$version
    say "installing the CRDs of $module"
    dir=$(go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    for kind in "${missing[@]}"; do
        kubectl apply --server-side -f "$dir/config/crd/snapshot.storage.k8s.io_$kind.yaml"
        kubectl wait --for=condition=Established --timeout=30s "crd/$kind.snapshot.storage.k8s.io"
    done
fi

if kubectl get deployments,statefulsets -A -o 'jsonpath={.items[*].spec.template.spec.containers[*].image}' | grep -q '[/-]snapshot-controller[:@]'; then
    say "the controller is there already"
elif [ ${#missing[@]} -eq 0 ]; then
    say "no controller is to be seen; if snapshots do not become ready, install one: kubectl apply -k deploy/snapshot-controller"
else
    say "installing the controller $version"
    kubectl apply -k deploy/snapshot-controller
    kubectl -n kube-system rollout status deployment/snapshot-controller --timeout="${TIMEOUT:-3m}"
fi
