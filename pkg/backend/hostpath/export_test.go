package hostpath

// Crash frees what the kernel frees when a process dies.
func (b *Backend) Crash() {
	_ = b.root.Close()
	_ = b.lock.Close()
}
