package nbd

import (
	"testing"
	"time"
)

func TestLatencyBuckets(t *testing.T) {
	for _, test := range []struct {
		took time.Duration
		want int
	}{
		{-1, 0}, {0, 0}, {16 * time.Microsecond, 0}, {16*time.Microsecond + 1, 1}, {32 * time.Microsecond, 1},
		{33 * time.Microsecond, 2}, {time.Millisecond, 6}, {1024 * time.Microsecond, 6}, {1025 * time.Microsecond, 7},
		{16777216 * time.Microsecond, 20}, {16777217 * time.Microsecond, 21}, {24 * time.Hour, 21},
	} {
		got := latencyBucket(test.took)
		if got != test.want {
			t.Errorf("%v is in bucket %d, want %d", test.took, got, test.want)
		}
		if got < LatencyBuckets-1 && test.took > LatencyBound(got) || got > 0 && test.took <= LatencyBound(got-1) {
			t.Errorf("%v is outside of bucket %d, up to %v", test.took, got, LatencyBound(got))
		}
	}
	if LatencyBound(0) != 16*time.Microsecond || LatencyBound(LatencyBuckets-2) != 16777216*time.Microsecond || LatencyBound(LatencyBuckets-1) != 0 {
		t.Error("bounds")
	}
}

// Every request is counted once, by command, on its export and in all, and
// stays counted when its connection is gone.
func TestStats(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	refuse := false
	device.refuse = func() bool { refuse = !refuse; return refuse } // every other one is a job
	s := startServer(t, Config{Exports: []Export{
		{Name: "swap", Device: device}, {Name: "other", Device: newMemoryDevice(8192), ReadOnly: true},
	}})
	c, other := s.attached(t, "swap"), s.attached(t, "other")
	for range 10 {
		c.readBack(0, 1000)
		c.send(requestBytes(0, wireWrite, 1, 0, 500, filled(500)...))
		c.expect(1, 0, 0)
		c.send(requestBytes(0, wireRead, 1, 1<<20, 1))
		c.expect(1, errnoInvalid, 0)
	}
	c.send(requestBytes(0, wireTrim, 1, 0, 8192), requestBytes(0, wireWriteZeroes, 2, 16384, 4096), requestBytes(0, wireFlush, 3, 0, 0))
	for range 3 {
		if _, errno := c.nextReply(); errno != 0 {
			t.Errorf("errno %d", errno)
		}
	}
	c.send(requestBytes(0, 99, 1, 0, 77))
	c.expect(1, errnoInvalid, 0)
	other.readBack(0, 8192)

	type counts struct{ requests, errors, bytes uint64 }
	want := [CommandCount]counts{
		CommandRead: {20, 10, 10000}, CommandWrite: {10, 0, 5000}, CommandFlush: {1, 0, 0},
		CommandTrim: {1, 0, 8192}, CommandWriteZeroes: {1, 0, 4096}, CommandOther: {1, 1, 0},
	}
	matches := func(got CommandStats, want [CommandCount]counts) bool {
		for i, w := range want {
			inBuckets := uint64(0)
			for _, n := range got[i].Latency.Buckets {
				inBuckets += n
			}
			if w != (counts{got[i].Requests, got[i].Errors, got[i].Bytes}) || inBuckets != w.requests {
				return false
			}
		}
		return true
	}
	verify := func() {
		t.Helper()
		all := want
		all[CommandRead].requests++
		all[CommandRead].bytes += 8192
		eventually(t, "the counts agree", func() bool {
			got := s.Stats()
			return matches(got.Exports[0].Commands, want) && matches(got.Commands, all)
		})
	}
	verify()
	got := s.Stats()
	if e := got.Exports[0]; e.Name != "swap" || e.Size != 1<<20 || e.ReadOnly || e.Clients != 1 {
		t.Errorf("first export: %+v", e)
	}
	if e := got.Exports[1]; e.Name != "other" || e.Size != 8192 || !e.ReadOnly || e.Clients != 1 {
		t.Errorf("second export: %+v", e)
	}
	if b := got.Buffers; b.Connections != 2*connectionBytes || b.Pool == 0 || b.Pool > b.PoolLimit || b.PoolLimit != 128<<20 {
		t.Errorf("buffers: %+v", b)
	}
	c.Close()
	other.Close()
	eventually(t, "the clients are gone", func() bool { return s.Stats().Connections.Now == 0 })
	verify()
	if got := s.Stats(); got.Exports[0].Clients != 0 || got.Buffers.Connections != 0 || got.Connections.Total != 2 {
		t.Errorf("at the end: %+v", got)
	}
}

func TestCommandNames(t *testing.T) {
	want := []string{"read", "write", "flush", "trim", "write_zeroes", "cache", "block_status", "other"}
	for i, name := range want {
		if got := Command(i).String(); got != name {
			t.Errorf("command %d is called %q, want %q", i, got, name)
		}
	}
	if int(CommandCount) != len(want) {
		t.Errorf("%d commands", CommandCount)
	}
}
