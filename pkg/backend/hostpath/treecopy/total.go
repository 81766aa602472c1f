package treecopy

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// countAfter is how long a copy runs before it is worth knowing how much there
// is in all: short ones are over before that is known.
const countAfter = 2 * time.Second

// countLater makes the tree's total known to progress, if the copy takes long
// enough.
func (w *workers) countLater(root *os.File, progress *backend.Progress) {
	if progress == nil {
		return
	}
	w.running.Go(func() {
		select {
		case <-w.Done():
			return
		case <-time.After(countAfter):
		}
		// What is wrong with the tree, the copy itself will find and say.
		if total, err := countTree(w, root); err == nil {
			progress.SetTotal(total)
		}
	})
}

// countTree returns about how many bytes of data the files of a tree have,
// without holes, and with those of several names once.
func countTree(ctx context.Context, root *os.File) (total int64, err error) {
	w := walker{
		ctx:       ctx,
		mayRepeat: true,
		enter:     func(string, *directory, *unix.Stat_t) error { return nil },
		files: func(_ string, dir *directory, names []string) error {
			for _, name := range names {
				var st unix.Stat_t
				if unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
					total += min(st.Size, st.Blocks*512) / int64(max(st.Nlink, 1))
				}
			}
			return ctx.Err()
		},
	}
	err = w.walk(root)
	return total, err
}
