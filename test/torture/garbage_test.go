package torture

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// bytesCodec sends bytes as they are, and throws away what comes back.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (bytesCodec) Unmarshal([]byte, any) error   { return nil }
func (bytesCodec) Name() string                  { return "proto" }

var forceBytes = grpc.ForceCodec(bytesCodec{})

// garbagePerMethod is how often each RPC gets garbage, for each unit of scale,
// where requests do not take long.
const garbagePerMethod = 700

// TestInputGarbage sends random bytes to every RPC, and requests of which some
// bytes are not as they were. The driver answers, and stays as it was.
func TestInputGarbage(t *testing.T) {
	onOne(t, func(t *testing.T, s storage) {
		b := started(t, s, 8*gib)
		p := b.newPatient(s.kinds[0])
		var before figures
		for i, m := range methods() {
			b.sub(filepath.Base(m.name), func(b *testbed) {
				p.revive()
				request, err := proto.Marshal(p.requestOf(m))
				if err != nil {
					b.Fatal(err)
				}
				random := rand.New(rand.NewPCG(*seed, uint64(i)))
				const together = 10
				for range garbagePerMethod * *scale / s.pace / together {
					var requests [together][]byte
					for i := range requests {
						requests[i] = garbage(random, request)
					}
					for i, err := range atOnce(together, func(i int) error { return b.call(m, requests[i]) }) {
						if blames(err) && !isUndecodable(err) {
							b.Errorf("%q: %v", requests[i], err)
						}
					}
				}
			})
			if i == 0 {
				before = b.figures()
			}
		}
		p.revive()
		p.dismiss()
		b.expectFigures(before)
	})
}

// garbage returns random bytes, or a request in which some were changed, left
// out or put in.
func garbage(random *rand.Rand, request []byte) []byte {
	if random.IntN(3) == 0 || len(request) == 0 {
		bytes := make([]byte, random.IntN(300))
		for i := range bytes {
			bytes[i] = byte(random.Uint32())
		}
		return bytes
	}
	bytes := slices.Clone(request)
	for range 1 + random.IntN(3) {
		at := random.IntN(len(bytes) + 1)
		switch {
		case random.IntN(4) == 0:
			bytes = slices.Insert(bytes, at, byte(random.Uint32()))
		case at == len(bytes):
		case random.IntN(4) == 0:
			bytes = slices.Delete(bytes, at, min(len(bytes), at+random.IntN(3)))
		default:
			bytes[at] ^= 1 << random.IntN(8)
		}
	}
	return bytes
}

// figures are what a process has that could grow without bound.
type figures struct {
	goroutines, descriptors, memory float64 // memory in bytes
}

func (b *testbed) figures() figures {
	b.Helper()
	return figures{b.Metric("go_goroutines"), b.Metric("process_open_fds"), b.Metric("process_resident_memory_bytes")}
}

// someMore is how many goroutines and descriptors a process may have for a while.
const someMore = 5

// expectFigures waits until the driver is as it was before.
func (b *testbed) expectFigures(before figures) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		now := b.figures()
		if now.goroutines <= before.goroutines+someMore && now.descriptors <= before.descriptors+someMore && now.memory <= before.memory+someMoreMemory {
			b.Logf("before %v, after %v", before, now)
			return
		}
		if time.Now().After(deadline) {
			b.Errorf("it had %v and has %v", before, now)
			return
		}
	}
}

func (f figures) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f descriptors, %.0f MiB", f.goroutines, f.descriptors, f.memory/mib)
}
