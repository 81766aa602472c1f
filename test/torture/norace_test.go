//go:build !race

package torture

const raceDetector = false

// someMoreMemory is what a process may keep that was busy, in bytes.
const someMoreMemory = 64 * mib
