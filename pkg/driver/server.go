package driver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
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

	// What is asked of storage that may hang.
	asked  inquiries[[]backend.Condition]
	gauges inquiries[[]backend.Gauge]

	// opened is nil until the core is open.
	opened atomic.Pointer[snapshotcore.Core]

	// privateDir is the configured one without symbolic links, found out when the
	// core was opened: later its filesystem may not be there to be asked.
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
	s := &Server{config: config, topology: newTopology(config.Name, config.NodeID)}
	s.metrics = newMetrics(config.Version, s.opened.Load)
	s.metrics.registry.MustRegister(storageFigures{s})
	return s, nil
}

// Run listens, opens the core and serves until ctx is done; then it stops and
// returns nil. Running calls get the configured time to end. It returns an
// error when it cannot listen or the core cannot be opened.
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
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(listener) }()
	klog.InfoS("Listening", "socket", path, "driver", s.config.Name, "version", s.config.Version, "node", s.config.NodeID)
	if s.config.MetricsAddress != "" {
		stopMetrics, err := s.metrics.serve(s.config.MetricsAddress)
		if err != nil {
			return err
		}
		defer stopMetrics()
	}
	core, err := s.config.Open(ctx)
	if err != nil {
		return err
	}
	if s.config.PrivateDir != "" {
		if s.privateDir, err = filepath.EvalSymlinks(s.config.PrivateDir); err != nil {
			return errors.Join(err, core.Close())
		}
	}
	s.opened.Store(core)
	klog.InfoS("Ready", "stats", core.Stats())
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	}
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

// core is the snapshot core. It is nil while waitForCore lets no call through.
func (s *Server) core() *snapshotcore.Core { return s.opened.Load() }
