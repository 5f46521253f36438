package attach

import (
	"bytes"
	"errors"
	"net"
	"reflect"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/genetlink/genltest"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

var testFamily = genetlink.Family{ID: 33, Version: 1, Name: familyName, Groups: []genetlink.MulticastGroup{{ID: 7, Name: groupName}}}

// testDriver is a driver whose kernel answers each command as told.
func testDriver(answer genltest.Func) driver {
	return driver{dial: func(*netlink.Config) (*genetlink.Conn, error) {
		return genltest.Dial(genltest.ServeFamily(testFamily, answer)), nil
	}}
}

// attributes encodes attributes as the kernel does.
func attributes(t *testing.T, put func(*netlink.AttributeEncoder)) []byte {
	t.Helper()
	e := netlink.NewAttributeEncoder()
	put(e)
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// command is what the kernel was asked.
type command struct {
	number  uint8
	numbers map[uint16]uint64
	backend string
	sockets []uint32
}

// parseCommand is written from linux/nbd-netlink.h.
func parseCommand(t *testing.T, m genetlink.Message) command {
	t.Helper()
	c := command{number: m.Header.Command, numbers: map[uint16]uint64{}}
	d, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		t.Fatal(err)
	}
	for d.Next() {
		switch d.Type() {
		case 1:
			c.numbers[1] = uint64(d.Uint32())
		case 7:
			d.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					if list.Type() != 1 {
						t.Errorf("item of type %d among sockets", list.Type())
					}
					list.Nested(func(item *netlink.AttributeDecoder) error {
						for item.Next() {
							c.sockets = append(c.sockets, item.Uint32())
						}
						return nil
					})
				}
				return nil
			})
		case 10:
			c.backend = d.String()
		default:
			c.numbers[d.Type()] = d.Uint64()
		}
	}
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

func testDevice(index int) device {
	return device{
		index: index, size: 1 << 30, blockSize: 4096, flags: 0x16d, backend: "tmemctl 12",
		timeout: 30 * time.Second, deadConnTimeout: 10 * time.Minute,
	}
}

func TestConnect(t *testing.T) {
	tests := []struct {
		name  string
		index int
		want  command
	}{
		{"a given device", 3, command{number: 1, numbers: map[uint16]uint64{1: 3, 2: 1 << 30, 3: 4096, 4: 30, 5: 0x16d, 6: 0, 8: 600}, backend: "tmemctl 12", sockets: []uint32{8, 9}}},
		{"a free device", anyIndex, command{number: 1, numbers: map[uint16]uint64{2: 1 << 30, 3: 4096, 4: 30, 5: 0x16d, 6: 0, 8: 600}, backend: "tmemctl 12", sockets: []uint32{8, 9}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := testDriver(func(m genetlink.Message, n netlink.Message) ([]genetlink.Message, error) {
				if got := parseCommand(t, m); !reflect.DeepEqual(got, test.want) {
					t.Errorf("the kernel is asked %+v, want %+v", got, test.want)
				}
				// The kernel's own message is the only answer, so none else may be asked for.
				if n.Header.Flags != netlink.Request {
					t.Errorf("flags are %v", n.Header.Flags)
				}
				return []genetlink.Message{{Header: m.Header, Data: attributes(t, func(e *netlink.AttributeEncoder) { e.Uint32(1, 5) })}}, nil
			})
			index, err := d.connect(testDevice(test.index), []int{8, 9})
			if err != nil || index != 5 {
				t.Errorf("connect returns %d, %v; want 5", index, err)
			}
		})
	}
}

func TestReconfigureAndDisconnect(t *testing.T) {
	var asked []command
	d := testDriver(func(m genetlink.Message, n netlink.Message) ([]genetlink.Message, error) {
		asked = append(asked, parseCommand(t, m))
		if n.Header.Flags != netlink.Request|netlink.Acknowledge {
			t.Errorf("flags are %v", n.Header.Flags)
		}
		return []genetlink.Message{{}}, nil
	})
	if err := d.reconfigure(testDevice(3), []int{11}); err != nil {
		t.Error(err)
	}
	if err := d.disconnect(3); err != nil {
		t.Error(err)
	}
	want := []command{
		{number: 3, numbers: map[uint16]uint64{1: 3, 4: 30, 8: 600}, backend: "tmemctl 12", sockets: []uint32{11}},
		{number: 2, numbers: map[uint16]uint64{1: 3}},
	}
	if !reflect.DeepEqual(asked, want) {
		t.Errorf("the kernel is asked %+v, want %+v", asked, want)
	}
}

func TestConnected(t *testing.T) {
	answer := func(states map[uint32]uint8) []byte {
		return attributes(t, func(e *netlink.AttributeEncoder) {
			e.Nested(9, func(list *netlink.AttributeEncoder) error {
				for index, state := range states {
					list.Nested(1, func(item *netlink.AttributeEncoder) error {
						item.Uint32(1, index)
						item.Uint8(2, state)
						return nil
					})
				}
				return nil
			})
		})
	}
	tests := []struct {
		name   string
		states map[uint32]uint8
		want   bool
	}{
		{"connected", map[uint32]uint8{2: 1}, true},
		{"not connected", map[uint32]uint8{2: 0}, false},
		{"only others", map[uint32]uint8{1: 1, 3: 1}, false},
		{"among others", map[uint32]uint8{1: 0, 2: 1, 3: 0}, true},
		{"no device", nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := testDriver(func(m genetlink.Message, n netlink.Message) ([]genetlink.Message, error) {
				if got := parseCommand(t, m); got.number != 5 || got.numbers[1] != 2 || n.Header.Flags != netlink.Request {
					t.Errorf("the kernel is asked %+v with flags %v", got, n.Header.Flags)
				}
				return []genetlink.Message{{Header: m.Header, Data: answer(test.states)}}, nil
			})
			if got, err := d.connected(2); err != nil || got != test.want {
				t.Errorf("connected returns %t, %v; want %t", got, err, test.want)
			}
		})
	}
}

func TestKernelErrorsNameTheCure(t *testing.T) {
	failing := func(errno unix.Errno) driver {
		return testDriver(func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
			return nil, genltest.Error(int(errno))
		})
	}
	without := driver{dial: func(*netlink.Config) (*genetlink.Conn, error) {
		return genltest.Dial(func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
			return nil, genltest.Error(int(unix.ENOENT))
		}), nil
	}}
	tests := []struct {
		name   string
		driver driver
		text   string
		hint   string
	}{
		{"busy", failing(unix.EBUSY), "/dev/nbd4 is in use already", "choose another device"},
		{"no right", failing(unix.EPERM), "may not configure NBD devices", "CAP_SYS_ADMIN"},
		{"no module", without, "the kernel's nbd module is not loaded", "modprobe nbd"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.driver.connect(testDevice(4), []int{1})
			var told *cli.Error
			if !errors.As(err, &told) || told.Problem != test.text || !bytes.Contains([]byte(told.Hint), []byte(test.hint)) {
				t.Errorf("connect fails with %#v", err)
			}
		})
	}
}

func TestDeadLinkMessages(t *testing.T) {
	message := func(command uint8, data []byte) genetlink.Message {
		return genetlink.Message{Header: genetlink.Header{Command: command, Version: 1}, Data: data}
	}
	index := func(n uint32) []byte {
		return attributes(t, func(e *netlink.AttributeEncoder) { e.Uint32(1, n) })
	}
	tests := []struct {
		name string
		m    genetlink.Message
		want bool
	}{
		{"ours", message(4, index(6)), true},
		{"another device's", message(4, index(7)), false},
		{"another message", message(1, index(6)), false},
		{"no device", message(4, nil), false},
		{"damaged", message(4, []byte{9, 0, 1}), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn := genltest.Dial(func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
				return []genetlink.Message{test.m}, nil
			})
			if _, err := conn.Send(genetlink.Message{}, 0, 0); err != nil {
				t.Fatal(err)
			}
			links := deadLinks{conn}
			if got, err := links.next(6); err != nil || got != test.want {
				t.Errorf("next returns %t, %v; want %t", got, err, test.want)
			}
			if err := links.close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAccepted: the timeout for sending is the kernel's only trace on a socket.
func TestAccepted(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if err := unix.SetsockoptTimeval(pair[1], unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true} {
		if got, err := newDriver().accepted(pair[i]); err != nil || got != want {
			t.Errorf("accepted returns %t, %v; want %t", got, err, want)
		}
	}
	if _, err := newDriver().accepted(-1); err == nil {
		t.Error("a socket that is none has no error")
	}
}

// TestDialLeavesNoTimeout: what the agent sets on a socket must not look like the
// kernel's trace.
func TestDialLeavesNoTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	f, err := duplicate(c)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if taken, err := newDriver().accepted(int(f.Fd())); err != nil || taken {
		t.Errorf("a new connection looks accepted: %t, %v", taken, err)
	}
	user, err := unix.GetsockoptInt(int(f.Fd()), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	if err != nil || user != 30000 {
		t.Errorf("TCP_USER_TIMEOUT is %d ms, %v", user, err)
	}
}
