package sanity

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
	"github.com/snapdriver/snapdriver/pkg/backend/lvm"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
	"github.com/snapdriver/snapdriver/pkg/driver"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// run is what csi-sanity is run against.
type run struct {
	name       string
	open       func(t *testing.T) (base string, b backend.Backend) // fresh, and a directory for all else
	accessType string
	parameters map[string]string
}

// runs are all that can be had on this machine. Where SNAPDRIVER_REQUIRE_LVM=1
// says that the tests of thin pools run, only these do: the others run where it
// is not set.
func runs(t *testing.T) []run {
	if os.Getenv("SNAPDRIVER_REQUIRE_LVM") == "1" {
		return lvmRuns
	}
	all := slices.Clone(memoryRuns)
	if os.Geteuid() != 0 {
		if testenv.RequireAll() {
			testenv.RequireRoot(t)
		}
		t.Log("left out: all but the backend in memory needs root, for mounts and devices")
		return all
	}
	all = append(all, hostpathRuns...)
	if testenv.HasThinPools() {
		all = append(all, lvmRuns...)
	}
	return all
}

var (
	// Of what is in memory nothing can be mounted; see withoutNode.
	memoryRuns = []run{
		{"memory", openMemory, "mount", nil},
	}
	hostpathRuns = []run{
		{"directory on ext4", openHostpath("ext4"), "mount", nil},
		{"directory on xfs", openHostpath("xfs"), "mount", nil},
		{"image", openHostpath("xfs"), "mount", map[string]string{"layout": "image"}},
		{"block", openHostpath("xfs"), "block", nil},
	}
	lvmRuns = []run{
		{"lvm", openLVM, "mount", nil},
		{"lvm block", openLVM, "block", nil},
	}
)

// allowedSkips are the reasons for which csi-sanity may skip a spec: each is an
// RPC that the driver does not advertise.
var allowedSkips = []string{
	"Controller Publish, UnpublishVolume not supported",
	"ControllerPublishVolume not supported",
	"ControllerUnpublishVolume not supported",
	"ControllerModifyVolume not supported",
	"Modify volume not supported",
	"Modify Volume not supported",
	"GroupControllerService not supported",
}

// withoutNode takes the specs out that the backend in memory cannot serve.
const withoutNode = "memory Node Service"

func TestSanity(t *testing.T) {
	quietLog()
	contexts := []*sanity.TestContext{}
	for _, run := range runs(t) {
		base, opened := run.open(t)
		config := sanity.NewTestConfig()
		config.Address = serve(t, base, opened)
		config.DialOptions = append(config.DialOptions, grpc.WithUnaryInterceptor(fillSizes))
		config.TargetPath, config.StagingPath = filepath.Join(base, "target"), filepath.Join(base, "staging")
		config.TestVolumeSize, config.TestVolumeExpandSize = 64*mib, 128*mib
		config.TestVolumeAccessType, config.TestVolumeParameters = run.accessType, run.parameters
		ginkgo.Describe(run.name, func() { contexts = append(contexts, sanity.GinkgoTest(&config)) })
	}
	var report types.Report
	ginkgo.ReportAfterSuite("report", func(r types.Report) { report = r })
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.SkipStrings = []string{withoutNode}
	suite.FailFast = true // of a server that has ended, each spec would wait a minute
	reporter.Succinct = true
	ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)
	for _, c := range contexts {
		c.Finalize()
	}
	count(t, report)
}

// fillSizes makes messages that say the same equal for csi-sanity. It compares
// the topology of a snapshot with the one that it has sent by reflection, which
// sees the size that the protobuf library notes in a message once it has been
// sent, and not in one that was only received.
func fillSizes(ctx context.Context, method string, request, response any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	err := invoke(ctx, method, request, response, conn, options...)
	proto.Size(response.(proto.Message))
	return err
}

func openMemory(t *testing.T) (string, backend.Backend) {
	b, err := memory.Open(memory.NewDisk(100*gib), nil)
	if err != nil {
		t.Fatal(err)
	}
	return testenv.TempDir(t), b
}

func openHostpath(filesystem string) func(*testing.T) (string, backend.Backend) {
	return func(t *testing.T) (string, backend.Backend) {
		base := testenv.Filesystem(t, filesystem, 8*gib)
		b, err := hostpath.Open(filepath.Join(base, "root"), hostpath.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return base, b
	}
}

func openLVM(t *testing.T) (string, backend.Backend) {
	pool := testenv.ThinPool(t, testenv.PoolOptions{})
	b, err := lvm.Open(lvm.Options{VolumeGroup: pool.Group, ThinPool: pool.Name, LockDir: testenv.TempDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	return testenv.TempDir(t), b
}

// serve serves a backend until the test ends and returns where.
func serve(t *testing.T, base string, b backend.Backend) string {
	// Before the server starts: csi-sanity does not wait until it is ready.
	core, err := snapshotcore.Open(t.Context(), b, snapshotcore.Options{NodeID: "node", InUse: mounts.InUse})
	if err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(base, "root")
	if err := os.MkdirAll(private, 0o700); err != nil {
		t.Fatal(err)
	}
	config := driver.Config{
		Endpoint:   "unix://" + filepath.Join(testenv.TempDir(t), "csi.sock"),
		Name:       driver.DefaultName,
		Version:    "test",
		NodeID:     "node",
		PrivateDir: private,
		Open:       func(context.Context) (*snapshotcore.Core, error) { return core, nil },
	}
	server, err := driver.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { testenv.ExpectNoLeaks(t, base) }) // after the server has ended
	testenv.InBackground(t, server.Run)
	return config.Endpoint
}

// quietLog shows the driver's log for specs that fail only.
func quietLog() {
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	_ = flags.Parse([]string{"-logtostderr=false", "-stderrthreshold=FATAL", "-v=5"})
	klog.SetOutput(ginkgo.GinkgoWriter)
}

// count prints how many specs of each run passed and why others were skipped,
// and fails the test for a reason that is not allowed.
func count(t *testing.T, report types.Report) {
	passed, skipped := map[string]int{}, map[string]int{}
	for _, spec := range report.SpecReports {
		if spec.LeafNodeType != types.NodeTypeIt {
			continue
		}
		run, reason := spec.ContainerHierarchyTexts[0], spec.Failure.Message
		switch {
		case spec.State == types.SpecStatePassed:
			passed[run]++
			continue
		case spec.State == types.SpecStatePending:
			reason = "switched off in csi-sanity itself"
		case strings.HasPrefix(spec.FullText(), withoutNode):
			reason = "no mounts"
		case !slices.Contains(allowedSkips, reason):
			t.Errorf("%s: %s for a reason that is not allowed: %q", spec.FullText(), spec.State, reason)
		}
		skipped[run+": "+reason]++
	}
	fmt.Println() // ginkgo has not ended its line
	for _, run := range slices.Sorted(maps.Keys(passed)) {
		fmt.Printf("%s: %d specs passed\n", run, passed[run])
		for _, what := range slices.Sorted(maps.Keys(skipped)) {
			if reason, found := strings.CutPrefix(what, run+": "); found {
				fmt.Printf("\t%d skipped: %s\n", skipped[what], reason)
			}
		}
	}
}
