package testvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"golang.org/x/sys/unix"
)

// What of the NBD protocol is needed to serve one disk to QEMU: the fixed
// newstyle handshake with NBD_OPT_GO, and simple replies. See
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. The
// numbers are in network byte order, and the structs below as the wire has
// them.
const (
	nbdInitMagic   = 0x4e42444d41474943 // "NBDMAGIC"
	nbdOptionMagic = 0x49484156454f5054 // "IHAVEOPT"
	nbdReplyMagic  = 0x3e889045565a9    // to options

	nbdFixedNewstyle, nbdNoZeroes = 1 << 0, 1 << 1 // flags of the handshake

	nbdOptGo          = 7
	nbdRepAck         = 1
	nbdRepInfo        = 3
	nbdRepUnsupported = 1<<31 + 1

	nbdHasFlags, nbdSendFlush = 1 << 0, 1 << 2 // flags of the disk

	nbdRequestMagic, nbdSimpleReplyMagic       = 0x25609513, 0x67446698
	nbdRead, nbdWrite, nbdDisconnect, nbdFlush = 0, 1, 2, 3
)

type nbdOption struct {
	Magic          uint64
	Option, Length uint32
}

type nbdOptionReply struct {
	Magic                uint64
	Option, Type, Length uint32
}

// nbdExport is the content of an NBD_REP_INFO of type NBD_INFO_EXPORT.
type nbdExport struct {
	Type  uint16
	Size  uint64
	Flags uint16
}

type nbdRequest struct {
	Magic          uint32
	Flags, Command uint16
	Handle         [8]byte
	Offset         uint64
	Length         uint32
}

type nbdReply struct {
	Magic, Error uint32
	Handle       [8]byte
}

// serve serves the disk through a connection until the other side closes it.
func (d *Disk) serve(connection io.ReadWriter) error {
	if err := d.shakeHands(connection); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	for {
		var request nbdRequest
		err := receive(connection, &request)
		if errors.Is(err, io.EOF) || err == nil && request.Command == nbdDisconnect {
			return nil
		}
		if err != nil {
			return err
		}
		if err := d.answer(connection, request); err != nil {
			return err
		}
	}
}

func (d *Disk) shakeHands(connection io.ReadWriter) error {
	if err := send(connection, struct {
		Magic, OptionMagic uint64
		Flags              uint16
	}{nbdInitMagic, nbdOptionMagic, nbdFixedNewstyle | nbdNoZeroes}); err != nil {
		return err
	}
	var flags uint32 // the client's, which are the same
	if err := receive(connection, &flags); err != nil {
		return err
	}
	for {
		var option nbdOption
		if err := receive(connection, &option); err != nil {
			return err
		}
		if option.Magic != nbdOptionMagic {
			return errors.New("no option where there must be one")
		}
		if _, err := io.CopyN(io.Discard, connection, int64(option.Length)); err != nil {
			return err
		}
		if option.Option == nbdOptGo {
			export := nbdExport{Size: uint64(d.size), Flags: nbdHasFlags | nbdSendFlush}
			return errors.Join(
				send(connection, nbdOptionReply{nbdReplyMagic, nbdOptGo, nbdRepInfo, uint32(binary.Size(export))}),
				send(connection, export),
				send(connection, nbdOptionReply{nbdReplyMagic, nbdOptGo, nbdRepAck, 0}))
		}
		if err := send(connection, nbdOptionReply{nbdReplyMagic, option.Option, nbdRepUnsupported, 0}); err != nil {
			return err
		}
	}
}

// answer answers one request. The error is of the connection; the disk's go to
// the other side.
func (d *Disk) answer(connection io.ReadWriter, request nbdRequest) error {
	if request.Magic != nbdRequestMagic || request.Length > math.MaxInt32 {
		return fmt.Errorf("not a request: %v", request)
	}
	data, offset := make([]byte, request.Length), int64(request.Offset)
	var failed error
	switch request.Command {
	case nbdRead:
		failed = d.read(data, offset)
	case nbdWrite:
		if err := receive(connection, data); err != nil {
			return err
		}
		failed = d.write(data, offset)
		data = nil
	case nbdFlush:
		d.flush()
	default:
		failed = errors.ErrUnsupported
	}
	reply := nbdReply{Magic: nbdSimpleReplyMagic, Handle: request.Handle}
	if failed != nil {
		reply.Error, data = uint32(unix.EIO), nil
	}
	return send(connection, reply, data)
}

func receive(from io.Reader, value any) error { return binary.Read(from, binary.BigEndian, value) }

// send sends values in one piece.
func send(to io.Writer, values ...any) error {
	var message bytes.Buffer
	for _, value := range values {
		if err := binary.Write(&message, binary.BigEndian, value); err != nil {
			return err
		}
	}
	_, err := message.WriteTo(to)
	return err
}
