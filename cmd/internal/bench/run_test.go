package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func TestPatterns(t *testing.T) {
	const pages = 1024
	for _, test := range []struct {
		pattern           Pattern
		connections, size int
		reads, writes     bool
	}{
		{RandomRead, 1, pageSize, true, false},
		{RandomRead, 3, 2 * pageSize, true, false},
		{SequentialRead, 2, 4 * pageSize, true, false},
		{RandomWrite, 1, pageSize, false, true},
		{RandomWrite, 2, 8 * pageSize, false, true},
		{SequentialWrite, 1, pageSize, false, true},
		{Mixed, 2, pageSize, true, true},
		{Swap, 1, pageSize, true, true},
		{Swap, 2, pageSize, true, true},
	} {
		t.Run(fmt.Sprintf("%s by %d of %d", test.pattern, test.connections, test.size), func(t *testing.T) {
			device, address := serve(t, pages, false)
			o := options(address, test.pattern)
			o.Connections, o.Size, o.Fill = test.connections, test.size, !test.writes
			r, err := Run(t.Context(), o, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests != 2000 || r.Requests != r.Reads.Requests+r.Writes.Requests+r.Discards.Requests {
				t.Errorf("%d requests: %d reads, %d writes, %d discards", r.Requests, r.Reads.Requests, r.Writes.Requests, r.Discards.Requests)
			}
			if r.Bytes != int64(r.Reads.Requests+r.Writes.Requests)*int64(test.size) {
				t.Errorf("%d bytes", r.Bytes)
			}
			if r.Reads.Requests > 0 != test.reads || r.Writes.Requests > 0 != test.writes || r.Discards.Requests > 0 != (test.pattern == Swap) {
				t.Errorf("%d reads, %d writes, %d discards", r.Reads.Requests, r.Writes.Requests, r.Discards.Requests)
			}
			if test.pattern == Swap && (r.Reads.Requests < 600 || r.Writes.Requests < 600 || device.discards() == 0) {
				t.Errorf("swap: %d reads, %d writes, %d discards there", r.Reads.Requests, r.Writes.Requests, device.trims)
			}
			// What was written is read back at the end, page by page.
			if v := r.Verified; v.Wrong != 0 || v.Right == 0 || v.Unstamped != 0 && test.pattern != Mixed {
				t.Errorf("verified: %+v", v)
			}
			for _, l := range []Latency{r.Reads, r.Writes} {
				if l.Requests > 0 && (l.Max <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max) {
					t.Errorf("latencies: %+v", l)
				}
			}
		})
	}
}

// TestAgain: pages of an earlier run are believed if the seed is the same, and say
// nothing to a run with another.
func TestAgain(t *testing.T) {
	device, address := serve(t, 256, false)
	o := options(address, SequentialWrite)
	o.Count = 200
	if _, err := Run(t.Context(), o, nil); err != nil {
		t.Fatal(err)
	}
	before := device.content()
	o.Pattern, o.Count, o.Destroy = SequentialRead, 256, false
	r, err := Run(t.Context(), o, nil)
	if err != nil || r.Verified.Right != 200 || r.Verified.Unstamped != 56 {
		t.Errorf("the same seed: %+v, error %v", r.Verified, err)
	}
	o.Seed++
	if r, err = Run(t.Context(), o, nil); err != nil || r.Verified.Unstamped != 256 {
		t.Errorf("another seed: %+v, error %v", r.Verified, err)
	}
	if !bytes.Equal(before, device.content()) || device.discards() > 0 {
		t.Error("N1: reading changed the device")
	}
}

// TestWrong: devices that lie are found out.
func TestWrong(t *testing.T) {
	lies := map[string]struct {
		lie  func(m *memory, p []byte, page int64) bool
		want string
	}{
		"a lost write": {func(m *memory, _ []byte, page int64) bool {
			return page == 50 && m.data[page*pageSize+8] != 0
		}, "page 50 has version"},
		"a page in another's place": {func(m *memory, p []byte, page int64) bool {
			return page == 51 && copy(m.data[50*pageSize:], p) > 0
		}, "page 50 has the content of page 51"},
		"a flipped bit": {func(m *memory, p []byte, page int64) bool {
			if page != 50 {
				return false
			}
			copy(m.data[page*pageSize:], p)
			m.data[page*pageSize+4000] ^= 4
			return true
		}, "is damaged"},
		"zeros": {func(m *memory, _ []byte, page int64) bool { return page == 50 }, "page 50 does not carry what was written"},
	}
	for name, test := range lies {
		t.Run(name, func(t *testing.T) {
			device, address := serve(t, 64, false)
			device.lie = test.lie
			r, err := Run(t.Context(), options(address, SequentialWrite), nil)
			var told *cli.Error
			if !errors.As(err, &told) || !strings.Contains(told.Problem, test.want) || told.Hint == "" {
				t.Errorf("N3: error %v, want %q", err, test.want)
			}
			if r.Verified == nil || r.Verified.Wrong == 0 || len(r.Verified.WrongPages) == 0 {
				t.Errorf("the report has %+v", r.Verified)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	_, address := serve(t, 64, true)
	for name, test := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"without consent":         {func(o *Options) { o.Destroy = false }, "overwrites what is on the device"},
		"a fill without consent":  {func(o *Options) { o.Pattern, o.Fill, o.Destroy = RandomRead, true, false }, "overwrites what is on the device"},
		"a device of others":      {func(*Options) {}, "does not allow writes"},
		"no pattern":              {func(o *Options) { o.Pattern = "random" }, "no pattern"},
		"no depth":                {func(o *Options) { o.Depth = 0 }, "--depth 0"},
		"no connection":           {func(o *Options) { o.Connections = 0 }, "--connections 0"},
		"half a page":             {func(o *Options) { o.Size = 2048 }, "2048 bytes"},
		"large requests":          {func(o *Options) { o.Size = 1 << 20 }, "1048576 bytes"},
		"large pages out":         {func(o *Options) { o.Pattern, o.Size = Swap, 2*pageSize }, "one page"},
		"no end":                  {func(o *Options) { o.Count = 0 }, "no end"},
		"beyond the end":          {func(o *Options) { o.Range = 1 << 30 }, "beyond the device"},
		"too little of it":        {func(o *Options) { o.Pattern, o.Connections = RandomRead, 65 }, "no room"},
		"a range of half pages":   {func(o *Options) { o.First = 5 }, "does not begin"},
		"an export that is not":   {func(o *Options) { o.Export = "no" }, "refused"},
		"a server that is not":    {func(o *Options) { o.Address += ".no" }, "connect to NBD server"},
		"more than all are reads": {func(o *Options) { o.Reads = 101 }, "--reads 101"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(address, RandomWrite)
			test.change(&o)
			_, err := Run(t.Context(), o, nil)
			var told *cli.Error
			if !errors.As(err, &told) || !strings.Contains(told.Problem, test.want) || told.Hint == "" {
				t.Errorf("error %v, want %q and a cure", err, test.want)
			}
		})
	}
}

// TestInterrupt: what was measured until then is reported (N5).
func TestInterrupt(t *testing.T) {
	_, address := serve(t, 256, false)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o := options(address, Mixed)
	o.Count, o.Duration = 1<<40, patience
	var told atomic.Int64
	r, err := Run(ctx, o, func(s Status) {
		if s.Phase == Measuring && s.Requests > 0 && s.Of == 1<<40 {
			told.Add(1)
			cancel()
		}
	})
	if err != nil || r.Requests == 0 || told.Load() == 0 {
		t.Errorf("%d requests, told %d times, error %v", r.Requests, told.Load(), err)
	}
}

// TestRange: nothing outside is touched.
func TestRange(t *testing.T) {
	device, address := serve(t, 64, false)
	device.fill(0xee)
	o := options(address, Swap)
	o.First, o.Range = 16*pageSize, 32*pageSize
	r, err := Run(t.Context(), o, nil)
	if err != nil || r.RangeBytes != 32*pageSize {
		t.Fatalf("range of %d bytes, error %v", r.RangeBytes, err)
	}
	data := device.content()
	outside := bytes.Repeat([]byte{0xee}, 16*pageSize)
	if !bytes.Equal(data[:16*pageSize], outside) || !bytes.Equal(data[48*pageSize:], outside) {
		t.Error("pages outside of the range were changed")
	}
	if bytes.Contains(data[16*pageSize:48*pageSize], outside[:16*pageSize-1]) {
		t.Error("the range was not used")
	}
}
