package torture

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

var (
	seed  = flag.Uint64("torture.seed", 20, "of the random choices")
	scale = flag.Int("torture.scale", 1, "how many `times` as often to try")
)

// newRandom returns random choices, the same ones with the same seed. When the
// machine does what they lead to is another matter.
func newRandom(t *testing.T) *rand.Rand {
	t.Logf("-torture.seed %d", *seed)
	return rand.New(rand.NewPCG(*seed, 0))
}

// built is the directory of the driver that was built here, if any.
var built string

func TestMain(m *testing.M) {
	m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
}

// build builds the driver once for all tests, in such a way that it can be told
// at which step to die, and with the race detector if they have it.
var build = sync.OnceValue(func() error {
	if os.Getenv("SNAPDRIVER_BINARY") != "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "torture")
	if err != nil {
		return err
	}
	built = dir
	binary := filepath.Join(dir, "snapdriver")
	arguments := []string{"build", "-tags=steps", "-o", binary}
	if raceDetector {
		arguments = append(arguments, "-race")
	}
	out, err := exec.Command("go", append(arguments, "github.com/snapdriver/snapdriver/cmd/snapdriver")...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, out)
	}
	return errors.Join(err, os.Setenv("SNAPDRIVER_BINARY", binary))
})

// requireDriver builds the driver, or skips a test that is too long now or
// cannot run here.
func requireDriver(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes minutes with its family")
	}
	testenv.RequireRoot(t)
	if err := build(); err != nil {
		t.Fatal(err)
	}
}
