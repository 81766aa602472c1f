package hostpath

// Crash frees what the kernel frees when a process dies.
func (b *Backend) Crash() {
	b.root.Close()
	b.lock.Close()
}
