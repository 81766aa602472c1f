package lvm

// Crash frees what the kernel frees when a process dies.
func (b *Backend) Crash() { _ = b.locks.free() }

// Commands returns how many commands were run that change something and that
// ask, and how many bytes all have printed.
func (b *Backend) Commands() (changing, asking int, printed int64) {
	return int(b.runner.changes.Load()), int(b.runner.reports.Load()), b.runner.printed.Load()
}

// CheckReadable is checkReadable.
var CheckReadable = checkReadable

// Forget makes the driver not know an object, as if making it had failed.
func (b *Backend) Forget(id string) { b.index.remove(id) }
