package cluster

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"

	"golang.org/x/crypto/ssh"
)

// SSHKey is the file of the key with which [Cluster.ServeSSH] lets one in.
func (c Cluster) SSHKey() string { return c.pki("ssh") }

func (c Cluster) writeSSHKey() error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return err
	}
	return os.WriteFile(c.SSHKey(), pem.EncodeToMemory(block), 0o600)
}

// ServeSSH runs commands for whoever has the key, in the node in which it is
// called, until its standard input ends. It is for those of Kubernetes' tests
// that stop a kubelet: there is a systemctl for that.
func (c Cluster) ServeSSH() error {
	content, err := os.ReadFile(c.SSHKey())
	if err != nil {
		return err
	}
	key, err := ssh.ParsePrivateKey(content)
	if err != nil {
		return err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, offered ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(offered.Marshal(), key.PublicKey().Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	}}
	config.AddHostKey(key)
	if err := os.Setenv("PATH", c.config("bin")+":"+os.Getenv("PATH")); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":22")
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = listener.Close()
	}()
	for {
		connection, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			if err := serveConnection(connection, config); err != nil {
				fmt.Fprintln(os.Stderr, "ssh:", err)
			}
		}()
	}
}

func serveConnection(connection net.Conn, config *ssh.ServerConfig) error {
	defer connection.Close()
	_, channels, requests, err := ssh.NewServerConn(connection, config)
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return err
		}
		if err := serveSession(channel, requests); err != nil {
			return err
		}
	}
	return nil
}

// serveSession runs the one command of a session.
func serveSession(channel ssh.Channel, requests <-chan *ssh.Request) error {
	defer channel.Close()
	for request := range requests {
		if request.Type != "exec" {
			if err := request.Reply(false, nil); err != nil {
				return err
			}
			continue
		}
		var line struct{ Command string }
		if err := ssh.Unmarshal(request.Payload, &line); err != nil {
			return err
		}
		if err := request.Reply(true, nil); err != nil {
			return err
		}
		// What a missing command is called by bash, the tests look for.
		cmd := exec.Command("bash", "-c", line.Command)
		cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
		var status struct{ Code uint32 }
		if err := cmd.Run(); err != nil {
			status.Code = 1
		}
		_, err := channel.SendRequest("exit-status", false, ssh.Marshal(status))
		return err
	}
	return nil
}

// kubeletStopped is there, in a node, while its kubelet is not to be started.
const kubeletStopped = "/run/kubelet.stopped"

// systemctl knows the one unit kubelet.
const systemctl = `#!/bin/bash
case $1 in
stop) touch ` + kubeletStopped + ` && pkill -x kubelet && while pgrep -x kubelet >/dev/null; do sleep 0.1; done ;;
start) rm -f ` + kubeletStopped + ` ;;
show) pgrep -x kubelet >/dev/null && echo active || echo inactive ;;
esac
`
