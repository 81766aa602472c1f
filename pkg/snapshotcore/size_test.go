package snapshotcore

import (
	"errors"
	"math"
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestPickSize(t *testing.T) {
	limits := backend.Limits{Default: 100, Min: 20, Max: 1000, Granularity: 10}
	for _, test := range []struct {
		name                    string
		required, limit, source int64
		size                    int64
		class                   error
	}{
		{"nothing asked: the default", 0, 0, 0, 100, nil},
		{"limit below the default", 0, 55, 0, 50, nil},
		{"limit below the minimum", 0, 15, 0, 0, backend.ErrOutOfRange},
		{"exact", 200, 200, 0, 200, nil},
		{"rounded up", 201, 0, 0, 210, nil},
		{"rounded above the limit", 201, 205, 0, 0, backend.ErrOutOfRange},
		{"below the minimum", 1, 0, 0, 20, nil},
		{"at the maximum", 1000, 0, 0, 1000, nil},
		{"above the maximum", 1001, 0, 0, 0, backend.ErrOutOfRange},
		{"as large as can be", math.MaxInt64, 0, 0, 0, backend.ErrOutOfRange},
		{"source, nothing asked", 0, 0, 300, 300, nil},
		{"source, limit above", 0, 400, 300, 300, nil},
		{"source, larger asked", 400, 0, 300, 400, nil},
		{"source, smaller asked", 200, 0, 300, 0, backend.ErrOutOfRange},
		{"source, limit below", 0, 200, 300, 0, backend.ErrOutOfRange},
		{"source smaller than the default", 0, 0, 50, 50, nil},
		{"negative", -1, 0, 0, 0, backend.ErrInvalid},
		{"negative limit", 0, -1, 0, 0, backend.ErrInvalid},
		{"limit below required", 200, 100, 0, 0, backend.ErrInvalid},
	} {
		size, err := pickSize(test.required, test.limit, limits, test.source)
		if size != test.size || !errors.Is(err, test.class) {
			t.Errorf("%s: %d, %v; expected %d, %v", test.name, size, err, test.size, test.class)
		}
	}
}
