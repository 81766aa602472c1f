package cluster

import (
	"path/filepath"
	"slices"
)

// image is a container image made of files of this machine.
type image struct {
	name       string
	files      []file // of two of one path, the first
	entrypoint []string
	cmd        []string
	user       string
}

// images are those that a cluster has from its start, under the names by which
// manifests and Kubernetes' own tests ask for them. A missing one costs such a
// test five minutes. gnu are programs that do more than those of busybox, and a
// shell that finds them: that of busybox prefers its own.
func images(bin string, versions map[string]string, gnu []file) []image {
	program := func(name, program string) image {
		return image{
			name:       name,
			files:      []file{{path: "/" + program, source: filepath.Join(bin, program)}},
			entrypoint: []string{"/" + program},
		}
	}
	sidecar := func(name, version string) image {
		return program("registry.k8s.io/sig-storage/"+name+":"+version, name)
	}
	shell := func(name string) image { return image{name: name, files: busybox(), cmd: []string{"sh"}} }

	agnhost := program("registry.k8s.io/e2e-test-images/agnhost:2.63.0", "agnhost")
	agnhost.files, agnhost.cmd = append(busybox(), agnhost.files...), []string{"pause"}
	kubectl := program("registry.k8s.io/kubectl:"+versions[kubeModule], "kubectl")

	return []image{
		program(pauseImage, "pause"),
		sidecar("csi-provisioner", versions[provisioner]),
		sidecar("csi-snapshotter", versions[snapshotter]),
		sidecar("snapshot-controller", versions[snapshotter]),
		sidecar("csi-resizer", versions[resizer]),
		// Stand-ins, see standin/.
		sidecar("csi-node-driver-registrar", "v2.17.0"),
		sidecar("livenessprobe", "v2.19.0"),
		kubectl,
		shell("docker.io/library/busybox:1.37.0"),
		// For Kubernetes' suites, which want a shell of nginx and no more.
		shell("registry.k8s.io/e2e-test-images/busybox:1.37.0-1"),
		shell("registry.k8s.io/e2e-test-images/nginx:1.15-4"),
		shell("registry.k8s.io/e2e-test-images/nginx:1.27-0"),
		{name: "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0", files: slices.Concat([]file{{path: "/bin/sh", link: "/usr/bin/dash"}}, busybox(), gnu), cmd: []string{"sh"}},
		agnhost,
	}
}

const pauseImage = "registry.k8s.io/pause:3.10.2"
