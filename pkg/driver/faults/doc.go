// Package faults makes creations go wrong on purpose, for those who test how
// their operators and backup tools take it. docs/faults.md is its manual.
//
// A class asks for a fault by a parameter. An interceptor takes it out of the
// request, so that nothing below knows of it: not the core, which only lets
// something stand around a creation, nor a backend, which only keeps for how
// long a snapshot is to count as not ready. Without an Injector, the
// interceptor does no more than refuse classes with the parameter.
package faults
