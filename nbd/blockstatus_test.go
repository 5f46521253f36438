package nbd

import (
	"fmt"
	"slices"
	"testing"
)

// statuses is what BLOCK_STATUS must tell of memoryDevice, page by page.
func (d *memoryDevice) statuses(context contexts, offset, length uint64) (want []extent) {
	for end := offset + length; offset < end; {
		n := min(pageSize-offset%pageSize, end-offset)
		page := d.data[offset/pageSize*pageSize:][:pageSize]
		status := uint64(page[0]) / 64
		if context == contextAllocation {
			status = 0
			if isZero(page) {
				status = 3
			}
		}
		if last := len(want) - 1; last >= 0 && want[last].status == status {
			want[last].length += n
		} else {
			want = append(want, extent{n, status})
		}
		offset += n
	}
	return want
}

func TestBlockStatus(t *testing.T) {
	const size = 16 << 20
	device := newMemoryDevice(size)
	punctured(device, 0xf0c3_0000_ffff_5516)
	for page := 3000; page < size/pageSize; page++ { // more changes than one answer holds
		clear(device.data[page*pageSize:][:pageSize])
		device.data[page*pageSize] = byte(page % 2 * 255)
	}
	s := startServer(t, Config{OwnerContext: "tmem:owner", Exports: []Export{{Name: "swap", Device: device}}})
	for _, f := range []framing{framingStructured, framingExtended} {
		c := s.framed(t, f, "swap")
		for i, r := range []struct{ offset, length uint64 }{
			{0, 1}, {0, 4096}, {5, 4096}, {4095, 2}, {0, 1 << 20}, {12345, 999_999}, {size - 1, 1}, {0, size}, {1000 * pageSize, size - 1000*pageSize},
		} {
			for _, flags := range []uint16{0, commandReqOne, commandFUA} {
				t.Run(fmt.Sprint(f, r, flags), func(t *testing.T) {
					c.t = t
					a := c.ask(f, request{wire: wireBlockStatus, cookie: uint64(i), flags: flags, offset: r.offset, length: r.length})
					if a.errno != 0 || a.chunks != 2 {
						t.Fatalf("errno %d in %d chunks", a.errno, a.chunks)
					}
					for _, context := range []contexts{contextAllocation, contextOwner} {
						want := device.statuses(context, r.offset, r.length)
						limit := maxExtents
						if flags == commandReqOne {
							limit = 1
						}
						want = want[:min(len(want), limit)]
						if got := a.extents[context.id()]; !slices.Equal(got, want) {
							t.Errorf("context %d: %v, want %v", context, got, want)
						}
					}
				})
			}
		}
	}
}

// Which contexts a client gets for what it asks, and whether it may use them.
func TestMetaContexts(t *testing.T) {
	device := newMemoryDevice(8192)
	config := Config{OwnerContext: "tmem:owner", Exports: []Export{
		{Name: "swap", Device: device}, {Name: "two", Device: device},
	}}
	both, allocation, owner := []string{"base:allocation", "tmem:owner"}, []string{"base:allocation"}, []string{"tmem:owner"}
	for _, test := range []struct {
		name string
		id   uint32
		data []byte
		want []string
	}{
		{"LIST everything", optionListMetaContext, metaData("swap"), both},
		{"LIST of the default export", optionListMetaContext, metaData(""), both},
		{"LIST base:", optionListMetaContext, metaData("swap", "base:"), allocation},
		{"LIST tmem:", optionListMetaContext, metaData("swap", "tmem:"), owner},
		{"LIST both namespaces", optionListMetaContext, metaData("swap", "tmem:", "base:"), both},
		{"LIST exactly", optionListMetaContext, metaData("swap", "tmem:owner"), owner},
		{"LIST unknown", optionListMetaContext, metaData("swap", "qemu:", "base:reftag", "", "base", ":"), nil},
		{"SET nothing", optionSetMetaContext, metaData("swap"), nil},
		{"SET base:", optionSetMetaContext, metaData("swap", "base:"), nil},
		{"SET allocation", optionSetMetaContext, metaData("swap", "base:allocation"), allocation},
		{"SET allocation twice", optionSetMetaContext, metaData("swap", "base:allocation", "base:allocation"), allocation},
		{"SET owner", optionSetMetaContext, metaData("swap", "tmem:owner"), owner},
		{"SET both and more", optionSetMetaContext, metaData("swap", "tmem:owner", "qemu:dirty-bitmap:x", "base:allocation"), both},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := startServer(t, config).greeted(t, 3)
			c.send(option(optionStructuredReply))
			c.expectReply(optionStructuredReply, repAck)
			c.send(option(test.id, test.data))
			var got []string
			for range test.want {
				b := c.expectReply(test.id, replyMetaContext)
				got = append(got, string(b[4:]))
			}
			c.expectReply(test.id, repAck)
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q", got)
			}
			c.goTo("swap")
			a := c.ask(framingStructured, request{wire: wireBlockStatus, length: 8192})
			if usable := test.id == optionSetMetaContext && len(test.want) > 0; usable != (a.errno == 0) || len(a.extents) != len(test.want) && usable {
				t.Errorf("BLOCK_STATUS: errno %d, %v", a.errno, a.extents)
			}
		})
	}
	for _, test := range []struct {
		name string
		send []byte // after SET for swap
		ok   bool
	}{
		{"kept until GO", nil, true},
		{"for another export", option(optionSetMetaContext, metaData("two", "tmem:owner")), false},
		{"replaced by nothing", option(optionSetMetaContext, metaData("swap")), false},
		{"replaced by a failure", option(optionSetMetaContext, metaData("tape", "tmem:owner")), false},
		{"replaced by nonsense", option(optionSetMetaContext, filled(9)), false},
		{"LIST replaces nothing", option(optionListMetaContext, metaData("two")), true},
	} {
		t.Run("chosen contexts: "+test.name, func(t *testing.T) {
			c := startServer(t, config).greeted(t, 3)
			c.send(option(optionStructuredReply), option(optionSetMetaContext, metaData("swap", "tmem:owner")), test.send, option(optGo, infoData("swap")))
			for {
				id, kind := c.nextOption()
				if id == optGo && kind == repAck {
					break
				}
			}
			a := c.ask(framingStructured, request{wire: wireBlockStatus, length: 8192})
			if (a.errno == 0) != test.ok {
				t.Errorf("BLOCK_STATUS: errno %d", a.errno)
			}
		})
	}
	// Without a context of our own there is one less.
	config.OwnerContext = ""
	c := startServer(t, config).greeted(t, 3)
	c.send(option(optionStructuredReply), option(optionListMetaContext, metaData("swap")))
	c.expectReply(optionStructuredReply, repAck)
	c.expectReply(optionListMetaContext, replyMetaContext)
	c.expectReply(optionListMetaContext, repAck)
	for _, bad := range []string{"owner", ":owner", "tmem:", "base:owner", "tmem:\x00"} {
		if _, err := NewServer(Config{OwnerContext: bad}); err == nil {
			t.Errorf("OwnerContext %q is accepted", bad)
		}
	}
}

// A device that tells nothing is held to its contract.
func TestExtentsOfABadDevice(t *testing.T) {
	s := startServer(t, Config{Exports: []Export{
		{Name: "mute", Device: muteDevice{newMemoryDevice(8192)}}, {Name: "panicky", Device: panickyDevice{newMemoryDevice(8192)}},
	}})
	for _, name := range []string{"mute", "panicky"} {
		c := s.greeted(t, 3)
		c.send(option(optionStructuredReply), option(optionSetMetaContext, metaData(name, "base:allocation")))
		c.expectReply(optionStructuredReply, repAck)
		c.expectReply(optionSetMetaContext, replyMetaContext)
		c.expectReply(optionSetMetaContext, repAck)
		c.goTo(name)
		if a := c.ask(framingStructured, request{wire: wireBlockStatus, length: 8192}); a.errno != errnoIO {
			t.Errorf("%s: errno %d", name, a.errno)
		}
	}
}

type muteDevice struct{ *memoryDevice }

func (muteDevice) Extents(int64, int64, func(int64, bool, uint32) bool) error { return nil }
