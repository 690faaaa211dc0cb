// Package wire carries Go values between a tested program and its tests, as bytes over a pair of pipes.
//
// Reading runs no code of the other side: bytes become values of the types that the reader declares, and behind an
// interface{} values of the predeclared types and of slices, arrays, maps and pointers of them. Whatever else a
// program puts there arrives as *Opaque, which equals nothing.
package wire

import (
	"encoding/binary"
	"errors"
	"syscall"
)

// MessageBytes bounds one message, and with it what reading one may allocate.
const MessageBytes = 32 << 20

// ErrEnded says that the other side has closed its end.
var ErrEnded = errors.New("the other side is gone")

// Channel is one message after another over a pair of pipes: its length in four bytes, then its bytes.
type Channel struct{ In, Out int }

// Send writes one message.
func (channel Channel) Send(message []byte) error {
	if len(message) > MessageBytes {
		return errors.New("a message of more bytes than one may have")
	}
	framed := binary.LittleEndian.AppendUint32(nil, uint32(len(message)))
	framed = append(framed, message...)
	for len(framed) > 0 {
		count, err := syscall.Write(channel.Out, framed)
		if err == syscall.EINTR || err == syscall.EAGAIN {
			continue
		}
		if err != nil {
			return ErrEnded
		}
		framed = framed[count:]
	}
	return nil
}

// Receive reads one message; ErrEnded at the end of the pipe, another error for what is no message.
func (channel Channel) Receive() ([]byte, error) {
	size, err := channel.read(4)
	if err != nil {
		return nil, err
	}
	count := binary.LittleEndian.Uint32(size)
	if count > MessageBytes {
		return nil, errors.New("an answer of more bytes than one may have")
	}
	return channel.read(int(count))
}

// read grows its buffer with what has arrived, so that a length alone allocates nothing.
func (channel Channel) read(count int) ([]byte, error) {
	var data []byte
	buffer := make([]byte, 1<<16)
	for len(data) < count {
		wanted := count - len(data)
		if wanted > len(buffer) {
			wanted = len(buffer)
		}
		got, err := syscall.Read(channel.In, buffer[:wanted])
		if err == syscall.EINTR || err == syscall.EAGAIN {
			continue
		}
		if err != nil || got <= 0 {
			return nil, ErrEnded
		}
		data = append(data, buffer[:got]...)
	}
	return data, nil
}
