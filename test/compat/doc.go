// Package compat holds what earlier versions have written, in testdata, and
// has the present one serve it. New fixtures, which are needed when the layout
// on disk, a record or a tag has changed, are written by root with
//
//	CGO_ENABLED=0 go test ./test/compat -new NAME
//
// Those that are there stay as they are: whoever has such objects will start a
// newer driver on them.
package compat
