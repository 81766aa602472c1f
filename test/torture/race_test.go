//go:build race

package torture

const raceDetector = true

// someMoreMemory is what a process may keep that was busy, in bytes.
const someMoreMemory = 512 * mib
