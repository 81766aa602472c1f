// Package poolfull fills a thin pool below the running driver, under writers
// that go on: its data, and its metadata. The driver has to stay up, to say what
// is wrong wherever it can be asked, and to refuse what would make it worse; and
// once there is space again, everything that was written before has to be there.
package poolfull
