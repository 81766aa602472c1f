package cluster

import (
	"fmt"
	"os"
	"path/filepath"
)

// component is a program that a node keeps running.
type component struct {
	name string
	args []string
}

const containerdSocket = "unix:///run/containerd/containerd.sock"

// components are those of a node, in the order of their start.
func components(c Cluster, n Node) []component {
	all := []component{{"containerd", []string{"containerd", "-c", c.config(n.Name + "/containerd.toml")}}}
	if n.control() {
		all = append(all, controlPlane(c, n)...)
	}
	return append(all, component{"kubelet", []string{
		"kubelet", "--config=" + c.config("kubelet.yaml"), "--kubeconfig=" + c.pki(n.Name+".kubeconfig"),
		"--hostname-override=" + n.Name, "--node-ip=" + n.ip(), "--v=2",
	}})
}

func controlPlane(c Cluster, n Node) []component {
	const etcd = "http://127.0.0.1:2379"
	return []component{
		{"etcd", []string{
			"etcd", "--data-dir=" + filepath.Join(c.nodeDir(n), "etcd"), "--unsafe-no-fsync", "--log-level=warn",
			"--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd, "--listen-peer-urls=http://127.0.0.1:2380",
		}},
		{"kube-apiserver", []string{
			"kube-apiserver", "--etcd-servers=" + etcd,
			"--secure-port=443", "--bind-address=0.0.0.0", "--advertise-address=" + n.ip(),
			"--service-cluster-ip-range=10.96.0.0/24", "--allow-privileged=true",
			"--tls-cert-file=" + c.pki("server.crt"), "--tls-private-key-file=" + c.pki("server.key"),
			"--client-ca-file=" + c.pki("ca.crt"), "--token-auth-file=" + c.pki("tokens.csv"),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + c.pki("sa.key"), "--service-account-signing-key-file=" + c.pki("sa.key"),
			"--kubelet-preferred-address-types=InternalIP", "--kubelet-certificate-authority=" + c.pki("ca.crt"),
			"--kubelet-client-certificate=" + c.pki("client.crt"), "--kubelet-client-key=" + c.pki("client.key"),
			"--audit-policy-file=" + c.config("audit.yaml"), "--audit-log-path=" + c.AuditLog(), "--audit-log-maxsize=1000",
			"--profiling=false",
		}},
		{"kube-controller-manager", []string{
			"kube-controller-manager", "--kubeconfig=" + c.pki("controller-manager.kubeconfig"), "--bind-address=127.0.0.1",
			"--leader-elect=false", "--use-service-account-credentials=true",
			"--root-ca-file=" + c.pki("ca.crt"), "--service-account-private-key-file=" + c.pki("sa.key"),
		}},
		{"kube-scheduler", []string{
			"kube-scheduler", "--kubeconfig=" + c.pki("scheduler.kubeconfig"), "--bind-address=127.0.0.1", "--leader-elect=false",
		}},
	}
}

// writeConfig writes the components' configuration files.
func (c Cluster) writeConfig(nodes []Node) error {
	files := map[string]string{
		"kubelet.yaml":  fmt.Sprintf(kubeletConfig, containerdSocket, c.pki("ca.crt"), c.pki("server.crt"), c.pki("server.key")),
		"audit.yaml":    auditPolicy,
		"bin/systemctl": systemctl,
		"resolv.conf":   "nameserver 127.0.0.1\n",
	}
	for _, n := range nodes {
		files[n.Name+"/containerd.toml"] = fmt.Sprintf(containerdConfig, c.imageStore(n), pauseImage, c.config(n.Name+"/cni"))
		files[n.Name+"/cni/bridge.conflist"] = fmt.Sprintf(cniConfig, n.podNetwork())
	}
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(c.config(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(c.config(name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return os.Chmod(c.config("bin/systemctl"), 0o755)
}

// restrict_oom_score_adj: where root lacks CAP_SYS_RESOURCE, runc may not lower
// the score (it fails with "can't get final child's PID from pipe: EOF").
const containerdConfig = `version = 2
root = "%s"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%s"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%s"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: %s
authentication: {x509: {clientCAFile: %s}, webhook: {enabled: true}, anonymous: {enabled: false}}
authorization: {mode: Webhook}
tlsCertFile: %s
tlsPrivateKeyFile: %s
# There is no DNS; refused at once is better than a warning on every pod.
clusterDNS: [127.0.0.1]
clusterDomain: cluster.local
failSwapOn: false
# Nothing is pulled: an image once collected would be gone.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%, nodefs.inodesFree: 1%%}
# The loops that storage waits for are slow by default.
syncFrequency: 3s
nodeStatusUpdateFrequency: 5s
volumeStatsAggPeriod: 10s
# More than 110 pods for the test that takes many snapshots at once.
maxPods: 400
`

// auditPolicy: what the service accounts of pods ask for, not those of
// Kubernetes' own controllers.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["system:serviceaccount:kube-system:snapshot-controller"]
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
`

const cniConfig = `{"cniVersion": "1.0.0", "name": "bridge", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam",
           "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`
