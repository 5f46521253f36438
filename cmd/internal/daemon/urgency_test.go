package daemon

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tmemd/tmemd/nbd"
)

// The realtime class is asked for while a client is the kernel of this host, anew
// at each look, and given up once.
func TestUrgency(t *testing.T) {
	var asked []bool
	u := newUrgency(func(on bool) error { asked = append(asked, on); return nil })
	named := 0
	u.comm = func(pid int32) string { named++; return map[int32]string{7: "nbd-client", 8: "qemu"}[pid] }
	local := func(id uint64, pid int32, session bool) nbd.Client {
		return nbd.Client{ID: id, Credentials: &nbd.Credentials{PID: pid}, Session: session}
	}
	remote := nbd.Client{ID: 1, Session: true} // attached over TCP: another host's kernel
	for i, step := range []struct {
		clients []nbd.Client
		want    []bool // asked for by then
	}{
		{nil, nil},
		{[]nbd.Client{remote, local(2, 8, false)}, nil},
		{[]nbd.Client{remote, local(2, 8, false), local(3, 7, false)}, []bool{true}},
		{[]nbd.Client{local(3, 7, false)}, []bool{true, true}},
		{[]nbd.Client{local(2, 8, false)}, []bool{true, true, false}},
		{nil, []bool{true, true, false}},
		{[]nbd.Client{local(4, 8, true)}, []bool{true, true, false, true}},
		{nil, []bool{true, true, false, true, false}},
	} {
		if err := u.look(step.clients); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(asked, step.want) {
			t.Fatalf("step %d: asked for %v, want %v", i, asked, step.want)
		}
	}
	if named != 3 {
		t.Errorf("names were looked up %d times", named)
	}
	failed := errors.New("no right to")
	u.set = func(bool) error { return failed }
	if err := u.look([]nbd.Client{local(9, 7, false)}); !errors.Is(err, failed) {
		t.Errorf("an error became %v", err)
	}
}

// A client of root's without a name is the kernel if it is still there after a
// while.
func TestHostKernelStays(t *testing.T) {
	comm := func(int32) string { return "" }
	nameless := []nbd.Client{{ID: 1, Credentials: &nbd.Credentials{}}}
	if looks := 0; hostKernelStays(func() []nbd.Client {
		if looks++; looks > 3 {
			return nil
		}
		return nameless
	}, comm) {
		t.Error("a client that went away is taken for the kernel")
	}
	if !hostKernelStays(func() []nbd.Client { return nameless }, comm) {
		t.Error("the kernel is not seen")
	}
	if hostKernelStays(func() []nbd.Client { return []nbd.Client{{ID: 2, Session: true}} }, comm) {
		t.Error("another host's kernel is taken for this one's")
	}
}

// After an upgrade the realtime class stays until the kernel had time to connect
// again, and is given up then if it did not.
func TestUrgencyExpects(t *testing.T) {
	var asked []bool
	var none *urgency
	none.hold()()
	u := newUrgency(func(on bool) error { asked = append(asked, on); return nil })
	u.on = true
	u.hold()() // as expect, but that it knows
	for range 2 {
		if err := u.look(nil); err != nil {
			t.Fatal(err)
		}
	}
	u.until = time.Time{}
	for range 2 {
		if err := u.look(nil); err != nil {
			t.Fatal(err)
		}
	}
	u.hold()() // nothing to expect
	if err := u.look(nil); err != nil {
		t.Fatal(err)
	}
	if want := []bool{true, true, false}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}

func TestCommandOf(t *testing.T) {
	if got := commandOf(1); got == "" {
		t.Error("process 1 has no name")
	}
	if got := commandOf(1<<30 - 1); got != "" {
		t.Errorf("nobody is called %q", got)
	}
}
