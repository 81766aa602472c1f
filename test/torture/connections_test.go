package torture

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// TestInputOversized: a message that is larger than any request can be is
// refused, and costs nothing that stays.
func TestInputOversized(t *testing.T) {
	onOne(t, func(t *testing.T, s storage) {
		b := started(t, s, gib)
		before := b.figures()
		for _, m := range methods() {
			for _, size := range []int{5 * mib, 64 * mib} {
				if err := b.call(m, make([]byte, size)); !isUnserved(err) {
					expectCode(b, err, codes.ResourceExhausted)
				}
			}
		}
		b.expectFigures(before)
	})
}

// crowds are clients that are of no use to anybody, and how many come.
var crowds = []struct {
	what  string
	count int
	join  func(b *testbed) (leave func() error, err error)
}{
	{"idle", 1000, func(b *testbed) (func() error, error) {
		connection := b.Dial()
		_, err := csi.NewIdentityClient(connection).Probe(background, &csi.ProbeRequest{})
		return connection.Close, err
	}},
	{"silent", 1000, func(b *testbed) (func() error, error) {
		connection, err := net.Dial("unix", b.Socket())
		if err != nil {
			return nil, err
		}
		return connection.Close, nil
	}},
	{"slow", 1000, func(b *testbed) (func() error, error) {
		connection, err := net.Dial("unix", b.Socket())
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(connection, "PRI * HTTP/2.0\r\n") // and the rest not yet
		return connection.Close, err
	}},
	{"begun", 1000, func(b *testbed) (func() error, error) {
		stream, err := b.Connection.NewStream(background, &grpc.StreamDesc{ClientStreams: true}, csi.Controller_CreateVolume_FullMethodName)
		if err != nil {
			return nil, err
		}
		return func() error {
			err := stream.CloseSend() // without a request
			return errors.Join(err, ignore(stream.RecvMsg(&csi.CreateVolumeResponse{})))
		}, nil
	}},
	{"nonsense", 1000, func(b *testbed) (func() error, error) {
		connection, err := net.Dial("unix", b.Socket())
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(connection, "GET / HTTP/1.1\r\n\r\n")
		return connection.Close, err
	}},
}

func ignore(error) error { return nil }

// TestInputCrowd has clients by the thousand that say nothing, or too little, or
// nonsense. Others are served all the same, those that go leave nothing behind,
// and the driver ends before Kubernetes loses its patience with it.
func TestInputCrowd(t *testing.T) {
	const grace = 30 * time.Second // terminationGracePeriodSeconds
	onOne(t, func(t *testing.T, s storage) {
		b := started(t, s, gib)
		b.list()
		before := b.figures()
		for _, crowd := range crowds {
			b.sub(crowd.what, func(b *testbed) {
				leave := b.join(crowd.count, crowd.join)
				v := b.mustCreate(s.kinds[0], "meanwhile")
				v.use(func(string) error { return nil })
				leave()
				b.expectFigures(before)
			})
		}
		for _, crowd := range crowds {
			b.join(100, crowd.join)
		}
		began := time.Now()
		b.Stop()
		if took := time.Since(began); took > grace {
			t.Errorf("it took %v to stop", took)
		}
	})
}

// join has so many clients join, and returns how to make them leave.
func (b *testbed) join(count int, join func(*testbed) (func() error, error)) (leave func()) {
	b.Helper()
	leaves := make([]func() error, count)
	check := func(errs []error) {
		for i, err := range errs {
			if err != nil {
				b.Fatalf("client %d: %v", i, err)
			}
		}
	}
	check(atOnce(count, func(i int) (err error) {
		leaves[i], err = join(b)
		return err
	}))
	return func() { check(atOnce(count, func(i int) error { return leaves[i]() })) }
}
