package testdriver

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// freeAddress returns a host:port that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Metric returns the value of one of the driver's metrics, which is named with
// its labels, if it has any.
func (d *Driver) Metric(name string) float64 {
	d.t.Helper()
	response, err := http.Get("http://" + d.metrics + "/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				d.t.Fatal(err)
			}
			return number
		}
	}
	d.t.Fatalf("there is no metric %s in:\n%s", name, text)
	return 0
}
