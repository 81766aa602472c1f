package hostpath

// Crash frees what the kernel frees when a process dies.
func (b *Backend) Crash() {
	_ = b.root.Close()
	_ = b.dir.Close()
	_ = b.lock.Close()
}

// WaitForRemovals waits until what was deleted is removed.
func (b *Backend) WaitForRemovals() { b.background.Wait() }
