#!/usr/bin/env bash
# A kind cluster with the driver in it, built from this tree, and a first
# snapshot taken and restored. Needs docker, kind, kubectl and Go. A cluster that
# is there already is kept, and gets the driver as it is in the tree now.
#
# Usage: hack/kind.sh up [WORKERS]   (default: one node that is everything)
#        hack/kind.sh down
set -euo pipefail
cd "$(dirname "$0")/.."
name=${CLUSTER:-snapdriver}

say() { printf '\n== %s\n' "$*"; }
usage() {
    echo "usage: hack/kind.sh up [WORKERS] | down" >&2
    exit 2
}

up() {
    local workers=${1:-0}
    [[ $workers =~ ^[0-9]+$ ]] || usage
    say "cluster $name"
    if kind get clusters | grep -x "$name" >/dev/null; then
        echo "it is there already, with the nodes that it has"
    else
        {
            echo 'kind: Cluster'
            echo 'apiVersion: kind.x-k8s.io/v1alpha4'
            echo 'nodes:'
            echo '- role: control-plane'
            for ((i = 0; i < workers; i++)); do echo '- role: worker'; done
        } | kind create cluster --name "$name" --config - --wait 3m
    fi

    # A node sees the loop devices that there were when it was made. The driver
    # makes the nodes that it needs, the kubelet, which takes devices of its own
    # for raw block volumes, does not.
    local node
    for node in $(kind get nodes --name "$name"); do
        # shellcheck disable=SC2016 # these are variables of the node's shell
        docker exec "$node" sh -c 'for i in $(seq 0 127); do [ -e /dev/loop$i ] || mknod /dev/loop$i b 7 "$i"; done'
    done

    # By the name that the manifests have for it, so that they apply as they are:
    # an image that is on the node is not pulled.
    local image
    image=$(sed -n 's/^ *image: \(.*\/snapdriver:.*\)/\1/p' deploy/base/daemonset.yaml)
    say "image $image"
    make image "IMAGE=$image"
    kind load docker-image "$image" --name "$name"

    say "snapshot controller and driver"
    kubectl config use-context "kind-$name"
    hack/snapshot-controller.sh
    # An image that was built anew has the tag of the one before: pods do not take
    # it by themselves.
    if kubectl -n snapdriver get daemonset snapdriver >/dev/null 2>&1; then
        kubectl -n snapdriver rollout restart daemonset/snapdriver
    fi
    hack/deploy.sh up

    say "a claim, its snapshot, and a claim made from that"
    kubectl apply -f examples/claim.yaml
    kubectl wait pod/app --for=condition=Ready --timeout=3m
    kubectl apply -f examples/snapshot.yaml
    kubectl wait volumesnapshot/data-before-upgrade --for='jsonpath={.status.readyToUse}=true' --timeout=1m
    kubectl apply -f examples/restore.yaml
    kubectl wait pod/app-restored --for=condition=Ready --timeout=3m
    kubectl get pvc,volumesnapshot
    echo "the restored claim says: $(kubectl exec app-restored -- cat /data/greeting)"
}

down() { kind delete cluster --name "$name"; }

for program in docker kind kubectl go; do
    command -v "$program" >/dev/null || { echo "kind: $program is not on the PATH" >&2; exit 1; }
done
case ${1:-} in
up | down) "$@" ;;
*) usage ;;
esac
