package lvm

// objectText is how many bytes one of our logical volumes adds at most to the
// text in which LVM keeps a volume group: some 400 for the LV itself, the
// names of LV, origin, pool and host, and our tags, of which the longest is
// a name of 128 bytes. usualText is what one with the names that Kubernetes
// gives takes.
const (
	objectText = 1536
	usualText  = 650
)

// area estimates how much is free in the metadata area of a volume group: a
// ring of which a new version of the whole text may take half. lvm knows, but
// takes a process to tell. The estimate errs on the small side: every object
// counts as long as one can be, and a deleted one gives nothing back, until
// lvm has been asked again.
type area struct {
	size int64

	// What lvm said was free, and the text of all operations that had been
	// admitted at that moment and were not reflected in it for certain.
	known int64

	// Text of all operations ever: of those that were begun, and of those that
	// have ended.
	admitted, settled int64
}

func (a *area) free() int64 { return a.known - a.admitted }

func (a *area) fits(objects int, reserve int64) bool {
	return a.free() >= reserve+int64(objects)*objectText
}

func (a *area) admit(objects int) { a.admitted += int64(objects) * objectText }

// settle notes the end of an operation. One that failed may have met an area
// that others have filled: lvm is asked before the next.
func (a *area) settle(objects int, done bool) {
	a.settled += int64(objects) * objectText
	if !done {
		a.known = 0
	}
}

// learn takes over what lvm has reported. What had not ended before lvm was
// asked, and what was begun since, may be missing from it.
func (a *area) learn(before area, size, free int64) {
	a.size = size
	a.known = free + before.settled
}
