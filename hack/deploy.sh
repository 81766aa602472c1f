#!/usr/bin/env bash
# Installs the driver in the cluster that kubectl talks to, and waits until every
# container of it is ready; or takes it away again.
#
# Usage: hack/deploy.sh up|down [OVERLAY]
#
# OVERLAY is a directory with a kustomization and its settings.yaml. Without it:
# deploy/overlays/kind for a cluster of one node, deploy/overlays/distributed for
# any other. TIMEOUT is how long to wait, as kubectl takes it (default 3m).
set -euo pipefail
cd "$(dirname "$0")/.."
timeout=${TIMEOUT:-3m}
ours=app.kubernetes.io/name=snapdriver # the label of what an overlay has
not_namespace='app.kubernetes.io/component!=namespace'

say() { echo "deploy: $*"; }
die() { echo "deploy: $*" >&2; exit 1; }
# The value of a key in the overlay's settings.yaml, without the quotes and the
# comment that YAML allows.
setting() {
    sed -nE "/^  $1:/{
        s/^  $1:[[:space:]]*//
        s/^\"([^\"]*)\".*/\1/
        s/^'([^']*)'.*/\1/
        s/(^|[[:space:]]+)#.*//
        s/[[:space:]]+$//
        p
    }" "$overlay/settings.yaml"
}

# Whether the namespace is one that an overlay has made.
own_namespace() {
    case $namespace in default | kube-*) return 1 ;; esac
    local found
    found=$(kubectl get namespaces -l "$ours" --field-selector "metadata.name=$namespace" -o name) || die "cannot see whose the namespace $namespace is"
    [ -n "$found" ]
}

choose_overlay() {
    overlay=${1:-}
    if [ -z "$overlay" ]; then
        local nodes
        nodes=$(kubectl get nodes -o name | wc -l)
        overlay=deploy/overlays/distributed
        [ "$nodes" -ne 1 ] || overlay=deploy/overlays/kind
        say "the cluster has $nodes node(s): $overlay"
    fi
    [ -f "$overlay/settings.yaml" ] || die "$overlay has no settings.yaml; there are: $(echo deploy/overlays/*)"
    namespace=$(setting namespace) driver=$(setting driverName)
}

up() {
    kubectl get crd volumesnapshots.snapshot.storage.k8s.io >/dev/null 2>&1 ||
        die "this cluster has no VolumeSnapshots: install their CRDs and the snapshot controller first (make snapshot-controller)"
    local selector='' set node
    # A namespace that others use, too, keeps its labels, that of pod security above all.
    if kubectl get namespace "$namespace" >/dev/null 2>&1 && ! own_namespace; then
        say "the namespace $namespace is not the driver's own and stays as it is; it has to let privileged pods in"
        selector=$not_namespace
    fi
    kubectl apply -k "$overlay" -l "$selector"
    set=$(kubectl -n "$namespace" get daemonset -l "$ours" -o name)
    if ! kubectl -n "$namespace" rollout status "$set" --timeout="$timeout"; then
        explain >&2
        die "$set in namespace $namespace did not become ready within $timeout"
    fi
    for node in $(kubectl -n "$namespace" get pods -l "$ours" -o 'jsonpath={.items[*].spec.nodeName}'); do
        kubectl wait "csinode/$node" --timeout="$timeout" >/dev/null \
            --for="jsonpath={.spec.drivers[?(@.name==\"$driver\")].name}=$driver" ||
            die "the kubelet of $node does not know $driver; is $(setting kubeletDir) its directory (kubeletDir in $overlay/settings.yaml)?"
    done
    check_controller
    say "$driver is ready"
}

# Which container is not ready, why, and the last that it logged.
explain() {
    # shellcheck disable=SC2016 # these are variables of the template
    local problem='
{{- range .items}}{{$pod := .metadata.name}}{{$node := .spec.nodeName}}
{{- range .status.conditions}}{{if and (eq .type "PodScheduled") (ne .status "True")}}{{$pod}} - is not scheduled: {{.message}}
{{end}}{{end}}
{{- range .status.containerStatuses}}{{if not .ready}}{{$pod}} {{.name}} on {{$node}} is not ready:
{{- with .state.waiting}} {{.reason}} {{.message}}{{end}}
{{- with .state.terminated}} ended with {{.exitCode}} {{.reason}} {{.message}}{{end}}
{{- with .state.running}} it runs, and its probe fails{{end}}
{{- with .lastState.terminated}}; before that it ended with {{.exitCode}} {{.reason}}{{end}}
{{end}}{{end}}{{end}}'
    local found=
    while read -r pod container why; do
        found=yes
        echo "deploy: container $container of $pod $why"
        # One that never ran has none, which is no reason not to speak of the others.
        [ "$container" = - ] || kubectl -n "$namespace" logs "$pod" -c "$container" --tail=5 2>/dev/null | sed 's/^/    /' || true
    done < <(kubectl -n "$namespace" get pods -l "$ours" -o "go-template=$problem")
    [ -n "$found" ] || kubectl -n "$namespace" get events --field-selector type=Warning
}

# On several nodes, snapshots wait for ever for a controller that does not say
# which node is to take them.
check_controller() {
    local controllers
    controllers=$(kubectl get deployments -A -o 'jsonpath={range .items[*].spec.template.spec.containers[*]}{.image} {.args}{"\n"}{end}' | grep '[/-]snapshot-controller[:@]') ||
        { say "warning: no snapshot controller is to be seen; without one, no snapshot is taken (kubectl apply -k deploy/snapshot-controller)"; return; }
    if kubectl kustomize "$overlay" | grep -q -- '--node-deployment$' &&
        ! grep -q -- '--enable-distributed-snapshotting\(=true\)\?"' <<<"$controllers"; then
        say "warning: the snapshot controller lacks --enable-distributed-snapshotting; snapshots will not become ready"
    fi
}

down() {
    local left
    left=$(kubectl get pv -o "jsonpath={range .items[?(@.spec.csi.driver==\"$driver\")]}  PersistentVolume {.metadata.name} of {.spec.claimRef.namespace}/{.spec.claimRef.name}{\"\n\"}{end}")
    if kubectl get crd volumesnapshotcontents.snapshot.storage.k8s.io >/dev/null 2>&1; then
        left+=${left:+$'\n'}$(kubectl get volumesnapshotcontent -o "jsonpath={range .items[?(@.spec.driver==\"$driver\")]}  VolumeSnapshotContent {.metadata.name} of {.spec.volumeSnapshotRef.namespace}/{.spec.volumeSnapshotRef.name}{\"\n\"}{end}")
    fi
    [ -z "$left" ] || die "$driver still has the following; without the driver they could not be used, nor deleted. Delete them first.
$left"
    # Neither CRDs nor the snapshot controller are in an overlay. The namespace
    # may be one that others use.
    kubectl delete -k "$overlay" -l "$not_namespace" --ignore-not-found --timeout="$timeout"
    kubectl -n "$namespace" wait pods -l "$ours" --for=delete --timeout="$timeout"
    local others
    others=$(kubectl -n "$namespace" get all,configmaps,secrets,persistentvolumeclaims -o name | grep -v configmap/kube-root-ca.crt || true)
    if [ -z "$others" ] && own_namespace; then
        kubectl delete namespace "$namespace" --timeout="$timeout"
    fi
    say "$driver is gone; what it kept on the nodes' disks is still there"
}

case ${1:-} in
up | down) ;;
*) die "usage: hack/deploy.sh up|down [OVERLAY]" ;;
esac
command -v kubectl >/dev/null || die "kubectl is not on the PATH"
kubectl version >/dev/null || die "kubectl reaches no cluster"
choose_overlay "${2:-}"
"$1"
