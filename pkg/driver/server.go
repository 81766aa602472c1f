package driver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

// Server serves the CSI services of one node.
type Server struct {
	config   Config
	topology topology
	metrics  *metrics

	// What is asked of storage that may hang, again and again.
	volumesAsked  inquiries[[]backend.Condition]
	storageAsked  inquiries[[]backend.Condition]
	gaugesAsked   inquiries[[]backend.Gauge]
	capacityAsked inquiries[snapshotcore.Capacity]
	usageAsked    inquiries[[]*csi.VolumeUsage]

	// opened is nil until the core is open.
	opened atomic.Pointer[snapshotcore.Core]

	// notOpened is why the last attempt to open the core failed; nil: none has.
	notOpened atomic.Pointer[error]

	// early is held by the calls that work without the core, and then, for the
	// moment in which the core takes over, by Run.
	early sync.RWMutex

	// privateDir is the configured one. Once the core is open it has no symbolic
	// links: later its filesystem may not be there to be asked.
	privateDir string
}

// handshakeTimeout is how long a client may take to begin to speak: a stop waits
// for one that says nothing.
const handshakeTimeout = 5 * time.Second

// New checks the configuration. It does no I/O.
func New(config Config) (*Server, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	s := &Server{config: config, topology: newTopology(config.Name, config.NodeID), privateDir: config.PrivateDir}
	s.metrics = newMetrics(config.Version, s.opened.Load)
	s.metrics.registry.MustRegister(storageFigures{s})
	return s, nil
}

// Run listens, opens the core and serves until ctx is done; then it stops and
// returns nil. Running calls get the configured time to end. It returns an
// error when it cannot listen, or when the core cannot be opened and is not to be
// tried again.
func (s *Server) Run(ctx context.Context) (err error) {
	path, err := SocketPath(s.config.Endpoint)
	if err != nil {
		return err
	}
	listener, err := listen(path, s.config.SocketGroup)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	rpc := grpc.NewServer(grpc.WaitForHandlers(true), grpc.ConnectionTimeout(handshakeTimeout), grpc.ChainUnaryInterceptor(s.interceptors()...))
	csi.RegisterIdentityServer(rpc, &identity{Server: s})
	csi.RegisterControllerServer(rpc, &controller{Server: s})
	csi.RegisterNodeServer(rpc, &node{Server: s})
	defer func() { err = errors.Join(err, s.stop(rpc)) }()
	serving, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	go func() { failed(fmt.Errorf("serve: %w", rpc.Serve(listener))) }()
	klog.InfoS("Listening", "socket", path, "driver", s.config.Name, "version", s.config.Version, "node", s.config.NodeID)
	if s.config.MetricsAddress != "" {
		stopMetrics, err := s.metrics.serve(s.config.MetricsAddress)
		if err != nil {
			return err
		}
		defer stopMetrics()
	}
	err = s.open(serving)
	if err == nil {
		<-serving.Done()
		err = context.Cause(serving)
	}
	if ctx.Err() != nil {
		return nil // whatever kept the storage from being opened, nobody wants it any more
	}
	return err
}

// The pauses between attempts to open the core.
const (
	firstRetry   = time.Second
	longestRetry = 15 * time.Second
)

// open opens the core. If it is configured to, it tries again until ctx is done:
// the storage may come later than the driver, or come back, and until then pods
// can be taken down. What was given wrongly (ErrInvalid) stays wrong.
func (s *Server) open(ctx context.Context) error {
	for pause := firstRetry; ; pause = min(2*pause, longestRetry) {
		core, err := s.config.Open(ctx)
		if err == nil {
			return s.take(core)
		}
		if ctx.Err() != nil || !s.config.WaitForStorage || errors.Is(err, backend.ErrInvalid) {
			return err
		}
		klog.ErrorS(err, "Cannot open the storage; only NodeUnpublishVolume works", "triedAgainAfter", pause)
		s.notOpened.Store(&err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// take begins to serve a core.
func (s *Server) take(core *snapshotcore.Core) error {
	// Who holds it unmounts, which may last; calls that come now are told to
	// come again.
	s.early.Lock()
	defer s.early.Unlock()
	if s.privateDir != "" {
		var err error
		if s.privateDir, err = filepath.EvalSymlinks(s.privateDir); err != nil {
			return errors.Join(err, core.Close())
		}
	}
	s.opened.Store(core)
	klog.InfoS("Ready", "stats", core.Stats())
	return nil
}

// interceptors are what every call goes through, the outermost first.
func (s *Server) interceptors() []grpc.UnaryServerInterceptor {
	return []grpc.UnaryServerInterceptor{
		s.metrics.measure, logCalls, mapErrors, recoverPanics, s.waitForCore, checkLimits, s.config.Faults.Intercept,
	}
}

// stop lets running calls end, but not for ever, and removes the socket. Only
// then it closes the core, which they use.
func (s *Server) stop(rpc *grpc.Server) error {
	klog.InfoS("Stopping")
	timer := time.AfterFunc(s.config.StopTimeout, rpc.Stop)
	defer timer.Stop()
	rpc.GracefulStop()
	if core := s.core(); core != nil {
		return core.Close()
	}
	return nil
}

// core is the snapshot core. It is nil while waitForCore lets only those calls
// through that do without.
func (s *Server) core() *snapshotcore.Core { return s.opened.Load() }
