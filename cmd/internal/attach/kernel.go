package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// The generic netlink family of Linux's NBD driver: linux/nbd-netlink.h.
const (
	familyName = "nbd"
	groupName  = "nbd_mc_group"

	commandConnect     = 1
	commandDisconnect  = 2
	commandReconfigure = 3
	commandLinkDead    = 4
	commandStatus      = 5

	attributeIndex           = 1  // u32
	attributeSize            = 2  // u64, bytes
	attributeBlockSize       = 3  // u64, bytes
	attributeTimeout         = 4  // u64, seconds
	attributeServerFlags     = 5  // u64
	attributeClientFlags     = 6  // u64
	attributeSockets         = 7  // items below
	attributeDeadConnTimeout = 8  // u64, seconds
	attributeDeviceList      = 9  // items below
	attributeBackend         = 10 // string

	socketItem = 1 // in attributeSockets
	socketFD   = 1 // u32, in socketItem

	deviceItem      = 1 // in attributeDeviceList
	deviceIndex     = 1 // u32, in deviceItem
	deviceConnected = 2 // u8, in deviceItem
)

// kernelTimeout bounds one exchange with the kernel. Configuring a device
// freezes its queue, which waits for requests in flight.
const kernelTimeout = time.Minute

// anyIndex lets the kernel choose a device that nobody uses.
const anyIndex = -1

// device is what the kernel is told of a device when it is configured.
type device struct {
	index     int    // N of /dev/nbdN, or anyIndex
	size      uint64 // bytes
	blockSize uint64 // bytes
	flags     uint16 // transmission flags of the server
	backend   string // who is behind it; RECONFIGURE must name the same

	// timeout is how long a request may take before its connection is given up,
	// in whole seconds.
	timeout time.Duration
	// deadConnTimeout is how long requests wait when no connection is left,
	// before they fail, in whole seconds.
	deadConnTimeout time.Duration
}

// kernel is what an attachment asks of Linux's NBD driver. Tests have another
// one.
type kernel interface {
	// connect configures a device and returns its index.
	connect(d device, sockets []int) (index int, err error)
	// reconfigure gives sockets to connections of the device that are dead. Those
	// that are one too many the kernel drops without a word.
	reconfigure(d device, sockets []int) error
	// disconnect ends the device's connections and what uses them.
	disconnect(index int) error
	// connected says whether the device is configured.
	connected(index int) (bool, error)
	// accepted says whether the kernel uses a socket that reconfigure offered.
	accepted(socket int) (bool, error)
}

// driver is the kernel's own NBD driver. Each operation has a netlink connection
// of its own: answers cannot be mixed up with those of an operation that failed.
type driver struct {
	dial func(*netlink.Config) (*genetlink.Conn, error)
}

func newDriver() driver { return driver{dial: genetlink.Dial} }

func (d driver) connect(dev device, sockets []int) (int, error) {
	answers, err := d.execute(commandConnect, func(e *netlink.AttributeEncoder) {
		if dev.index != anyIndex {
			e.Uint32(attributeIndex, uint32(dev.index))
		}
		e.Uint64(attributeSize, dev.size)
		e.Uint64(attributeBlockSize, dev.blockSize)
		e.Uint64(attributeTimeout, seconds(dev.timeout))
		e.Uint64(attributeServerFlags, uint64(dev.flags))
		// Neither DESTROY_ON_DISCONNECT nor DISCONNECT_ON_CLOSE: a device goes
		// away when it is told to.
		e.Uint64(attributeClientFlags, 0)
		e.Uint64(attributeDeadConnTimeout, seconds(dev.deadConnTimeout))
		e.String(attributeBackend, dev.backend)
		putSockets(e, sockets)
	})
	if err != nil {
		return 0, explainConnect(dev.index, err)
	}
	for _, answer := range answers {
		if index, ok, err := indexOf(answer.Data); err != nil || ok {
			return index, err
		}
	}
	return 0, errors.New("configure the device: the kernel does not say which one it took")
}

func explainConnect(index int, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return cli.Failure("choose another device, or leave the device out to get a free one; nbd-client -d or tmemctl detach frees one",
			"/dev/nbd%d is in use already", index)
	case errors.Is(err, unix.EPERM):
		return cli.Failure("run tmemctl as root (it needs CAP_SYS_ADMIN)", "may not configure NBD devices")
	}
	return fmt.Errorf("configure the device: %w", err)
}

func (d driver) reconfigure(dev device, sockets []int) error {
	_, err := d.execute(commandReconfigure, func(e *netlink.AttributeEncoder) {
		e.Uint32(attributeIndex, uint32(dev.index))
		e.Uint64(attributeTimeout, seconds(dev.timeout))
		e.Uint64(attributeDeadConnTimeout, seconds(dev.deadConnTimeout))
		e.String(attributeBackend, dev.backend)
		putSockets(e, sockets)
	})
	if err != nil {
		return fmt.Errorf("hand over new connections: %w", err)
	}
	return nil
}

func (d driver) disconnect(index int) error {
	_, err := d.execute(commandDisconnect, func(e *netlink.AttributeEncoder) {
		e.Uint32(attributeIndex, uint32(index))
	})
	if err != nil {
		return fmt.Errorf("disconnect /dev/nbd%d: %w", index, err)
	}
	return nil
}

func (d driver) connected(index int) (bool, error) {
	answers, err := d.execute(commandStatus, func(e *netlink.AttributeEncoder) {
		e.Uint32(attributeIndex, uint32(index))
	})
	if err != nil {
		return false, fmt.Errorf("ask for the status of /dev/nbd%d: %w", index, err)
	}
	for _, answer := range answers {
		if found, connected, err := statusOf(answer.Data, index); err != nil || found {
			return connected, err
		}
	}
	return false, nil // there is no such device yet
}

// accepted looks at the one trace that the kernel leaves on a socket that it
// took: the device's timeout is the socket's timeout for sending. A dropped one
// still has none, which is why the timeout must not be 0.
func (d driver) accepted(socket int) (bool, error) {
	timeout, err := unix.GetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO)
	if err != nil {
		return false, fmt.Errorf("look at a socket that was handed over: %w", os.NewSyscallError("getsockopt", err))
	}
	return *timeout != unix.Timeval{}, nil
}

// execute sends one command and returns the answers that carry data.
func (d driver) execute(command uint8, attributes func(*netlink.AttributeEncoder)) (answers []genetlink.Message, err error) {
	conn, err := d.dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open generic netlink: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	family, err := findFamily(conn)
	if err != nil {
		return nil, err
	}
	// It cannot be set on a test's connection, and matters only if the kernel hangs.
	_ = conn.SetDeadline(time.Now().Add(kernelTimeout))
	encoder := netlink.NewAttributeEncoder()
	attributes(encoder)
	data, err := encoder.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode a message to the kernel: %w", err)
	}
	message := genetlink.Message{Header: genetlink.Header{Command: command, Version: family.Version}, Data: data}
	// CONNECT and STATUS answer with a message and without an acknowledgement if
	// none is asked for; the others would answer with nothing at all.
	flags := netlink.Request
	if command != commandConnect && command != commandStatus {
		flags |= netlink.Acknowledge
	}
	return conn.Execute(message, family.ID, flags)
}

func findFamily(conn *genetlink.Conn) (genetlink.Family, error) {
	family, err := conn.GetFamily(familyName)
	if errors.Is(err, fs.ErrNotExist) {
		return family, cli.Failure("load it: modprobe nbd; to have it loaded at boot: echo nbd > /etc/modules-load.d/nbd.conf",
			"the kernel's nbd module is not loaded")
	}
	if err != nil {
		return family, fmt.Errorf("look for the kernel's NBD driver: %w", err)
	}
	return family, nil
}

func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }

func putSockets(e *netlink.AttributeEncoder, sockets []int) {
	e.Nested(attributeSockets, func(list *netlink.AttributeEncoder) error {
		for _, socket := range sockets {
			list.Nested(socketItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(socketFD, uint32(socket))
				return nil
			})
		}
		return nil
	})
}

// indexOf finds the device's index in an answer or a link-dead message.
func indexOf(data []byte) (index int, ok bool, err error) {
	decoder, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return 0, false, fmt.Errorf("read the kernel's answer: %w", err)
	}
	for decoder.Next() {
		if decoder.Type() == attributeIndex {
			index, ok = int(decoder.Uint32()), true
		}
	}
	if err := decoder.Err(); err != nil {
		return 0, false, fmt.Errorf("read the kernel's answer: %w", err)
	}
	return index, ok, nil
}

// statusOf finds a device in an answer to STATUS.
func statusOf(data []byte, index int) (found, connected bool, err error) {
	decoder, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return false, false, fmt.Errorf("read the kernel's answer: %w", err)
	}
	item := func(d *netlink.AttributeDecoder) error {
		this, state := -1, uint8(0)
		for d.Next() {
			switch d.Type() {
			case deviceIndex:
				this = int(d.Uint32())
			case deviceConnected:
				state = d.Uint8()
			}
		}
		if this == index {
			found, connected = true, state != 0
		}
		return nil
	}
	for decoder.Next() {
		if decoder.Type() != attributeDeviceList {
			continue
		}
		decoder.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				if list.Type() == deviceItem {
					list.Nested(item)
				}
			}
			return nil
		})
	}
	if err := decoder.Err(); err != nil {
		return false, false, fmt.Errorf("read the kernel's answer: %w", err)
	}
	return found, connected, nil
}

// deadLinks listens for the kernel's word that a connection of a device died.
type deadLinks struct{ conn *genetlink.Conn }

// listen joins the driver's multicast group.
func (d driver) listen() (*deadLinks, error) {
	conn, err := d.dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open generic netlink: %w", err)
	}
	family, err := findFamily(conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	for _, group := range family.Groups {
		if group.Name != groupName {
			continue
		}
		if err := conn.JoinGroup(group.ID); err != nil {
			return nil, errors.Join(fmt.Errorf("join %s: %w", groupName, err), conn.Close())
		}
		return &deadLinks{conn}, nil
	}
	return nil, errors.Join(fmt.Errorf("the kernel's NBD driver has no group %s", groupName), conn.Close())
}

// next waits for messages and says whether one is about the device. Messages
// that were lost, because nobody read them in time, count as one about it.
func (l *deadLinks) next(index int) (bool, error) {
	messages, _, err := l.conn.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("listen for dead connections: %w", err)
	}
	for _, m := range messages {
		if m.Header.Command != commandLinkDead {
			continue
		}
		if dead, ok, err := indexOf(m.Data); err == nil && ok && dead == index {
			return true, nil
		}
	}
	return false, nil
}

func (l *deadLinks) close() error { return l.conn.Close() }

// defaultConnections is how many connections make sense: the kernel sends what a
// processor submits on the connection of its queue, and more stay idle.
func defaultConnections() int { return min(runtime.NumCPU(), MaxConnections) }
