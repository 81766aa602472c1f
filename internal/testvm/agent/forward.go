package main

import (
	"io"
	"net"

	"github.com/snapdriver/snapdriver/internal/testvm/wire"
)

// forward connects the host with a socket, once there is one, until either
// side ends.
func forward(socket string) error {
	port, err := openPort(wire.DialPort)
	if err != nil {
		return err
	}
	connection, err := await(func() (net.Conn, error) { return net.Dial("unix", socket) })
	if err != nil {
		return err
	}
	ended := make(chan error)
	for _, direction := range []struct {
		to   io.Writer
		from io.Reader
	}{{port, connection}, {connection, port}} {
		go func() {
			_, err := io.Copy(direction.to, direction.from)
			ended <- err
		}()
	}
	return <-ended
}
