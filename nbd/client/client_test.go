package client

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestWorkloads(t *testing.T) {
	const pages = 512
	source := newSamples(100)
	for _, test := range []struct {
		network string
		depth   int
	}{{"unix", 1}, {"unix", 16}, {"unix", 200}, {"tcp", 16}} {
		t.Run(test.network, func(t *testing.T) {
			device, address := serve(t, test.network, pages+1, false)
			c := dial(t, test.network, address)
			if c.Size() != (pages+1)*PageSize {
				t.Fatalf("size %d", c.Size())
			}
			content := NewContent(source, 1, pages)
			run := func(w Workload) *Result {
				t.Helper()
				result, err := c.Run(t.Context(), w, Options{Depth: test.depth})
				if err != nil {
					t.Fatal(err)
				}
				return result
			}
			if r := run(NewFill(content)); r.Writes.Count() != pages || r.Requests() != pages || r.Bytes != pages*PageSize {
				t.Fatalf("fill: %d writes of %d requests, %d bytes", r.Writes.Count(), r.Requests(), r.Bytes)
			}
			for i := range pages {
				if !bytes.Equal(device.page(i+1), source[i%len(source)]) {
					t.Fatalf("page %d is not what was written", i)
				}
			}
			const many = 1000
			if r := run(Limit(NewRandomRead(content, 1, 1), many)); r.Reads.Count() != many || r.Requests() != many {
				t.Errorf("random reads: %d of %d requests", r.Reads.Count(), r.Requests())
			}
			if r := run(Limit(NewRandomWrite(content, 2), many)); r.Writes.Count() != many || r.Requests() != many {
				t.Errorf("random writes: %d of %d requests", r.Writes.Count(), r.Requests())
			}
			r := run(Limit(NewSwap(content, 3, 1), many))
			if r.Requests() != many || r.Writes.Count() < many/3 || r.Reads.Count() < many/3 || r.Others.Count() == 0 {
				t.Errorf("swap: %d writes, %d reads, %d trims", r.Writes.Count(), r.Reads.Count(), r.Others.Count())
			}
			if r := run(NewScan(content)); r.Reads.Count() != pages || r.Elapsed <= 0 || r.Rate() <= 0 {
				t.Errorf("scan: %d reads in %v", r.Reads.Count(), r.Elapsed)
			}
			if !bytes.Equal(device.page(0), make([]byte, PageSize)) {
				t.Error("a page before the range was written")
			}
		})
	}
}

func TestConnectionsAtOnce(t *testing.T) {
	const connections, pages = 4, 128
	source := newSamples(50)
	_, address := serve(t, "unix", connections*pages, false)
	var running sync.WaitGroup
	results := make([]*Result, connections)
	for i := range connections {
		c := dial(t, "unix", address)
		content := NewContent(source, uint64(i*pages), pages)
		running.Go(func() {
			for _, w := range []Workload{NewFill(content), NewSwap(content, uint64(i), 1), NewScan(content)} {
				result, err := c.Run(t.Context(), Limit(w, 500), Options{Depth: 16})
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				results[i] = result
			}
		})
	}
	running.Wait()
	var all Result
	for _, r := range results {
		if r != nil {
			all.Merge(r)
		}
	}
	if all.Reads.Count() == 0 || all.Bytes != int64(all.Reads.Count())*PageSize {
		t.Errorf("%d reads, %d bytes", all.Reads.Count(), all.Bytes)
	}
}

// requests is a workload of given requests.
type requests struct {
	left []Request
	done int
}

func (q *requests) Next(r *Request) bool {
	if len(q.left) == 0 {
		return false
	}
	*r, q.left = q.left[0], q.left[1:]
	return true
}

func (q *requests) Done(*Request) { q.done++ }

func TestRunErrors(t *testing.T) {
	page := newSamples(1)[0]
	for _, test := range []struct {
		name     string
		requests []Request
		depth    int
		want     string
	}{
		{"wrong content", []Request{{Read, 4096, PageSize, page, nil}}, 1, "read of 4096 bytes at offset 4096: wrong content"},
		{"refused write", []Request{{Write, 0, PageSize, page, nil}}, 1, "error 1"},
		{"beyond the end", []Request{{Read, 1 << 40, PageSize, nil, nil}}, 1, "error 22"},
		{"too long", []Request{{Read, 0, MaxLength + 1, nil, nil}}, 1, "read of 131073 bytes"},
		{"data of another length", []Request{{Read, 0, PageSize, page[:10], nil}}, 1, "with 10 of data"},
		{"no depth", nil, 0, "depth 0"},
		{"too deep", nil, MaxDepth + 1, "depth 1025"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, address := serve(t, "unix", 8, true)
			c := dial(t, "unix", address)
			_, err := c.Run(t.Context(), &requests{left: test.requests}, Options{Depth: test.depth})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestFlushAndTrim(t *testing.T) {
	device, address := serve(t, "unix", 8, false)
	if _, err := device.WriteAt([]byte{1}, PageSize); err != nil {
		t.Fatal(err)
	}
	c := dial(t, "unix", address)
	q := &requests{left: []Request{{Command: Flush}, {Trim, 0, 2 * PageSize, nil, nil}, {Read, PageSize, PageSize, make([]byte, PageSize), nil}}}
	result, err := c.Run(t.Context(), q, Options{Depth: 1})
	if err != nil {
		t.Fatal(err)
	}
	if q.done != 3 || result.Others.Count() != 2 || result.Reads.Count() != 1 {
		t.Errorf("%d requests done, %d others, %d reads", q.done, result.Others.Count(), result.Reads.Count())
	}
}

func TestRunEndsInTime(t *testing.T) {
	_, address := serve(t, "unix", 64, false)
	c := dial(t, "unix", address)
	content := NewContent(newSamples(4), 0, 64)
	if _, err := c.Run(t.Context(), NewFill(content), Options{Depth: 4}); err != nil {
		t.Fatal(err)
	}
	const duration = 20 * time.Millisecond
	result, err := c.Run(t.Context(), NewRandomRead(content, 1, 0), Options{Depth: 4, Duration: duration})
	if err != nil {
		t.Fatal(err)
	}
	if result.Elapsed < duration {
		t.Errorf("a workload without end ended after %v", result.Elapsed)
	}
}

func TestRunEndsWithContext(t *testing.T) {
	_, address := serve(t, "unix", 64, false)
	c := dial(t, "unix", address)
	content := NewContent(newSamples(4), 0, 64)
	if _, err := c.Run(t.Context(), NewFill(content), Options{Depth: 4}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Run(ctx, NewRandomRead(content, 1, 0), Options{Depth: 4}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
}

func TestDialErrors(t *testing.T) {
	_, address := serve(t, "unix", 8, false)
	if _, err := Dial(t.Context(), "unix", address, "no such export"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("unknown export: %v", err)
	}
	if _, err := Dial(t.Context(), "unix", address+".missing", exportName); err == nil {
		t.Error("no server: no error")
	}

	silent, err := net.Listen("unix", filepath.Join(t.TempDir(), "silent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, "unix", silent.Addr().String(), exportName); err == nil {
		t.Error("a server that says nothing: no error")
	}
}

func TestRunDoesNotAllocate(t *testing.T) {
	_, address := serve(t, "unix", 1024, false)
	c := dial(t, "unix", address)
	content := NewContent(newSamples(64), 0, 1024)
	if _, err := c.Run(t.Context(), NewFill(content), Options{Depth: 64}); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	result, err := c.Run(t.Context(), Limit(NewSwap(content, 1, 1), 20000), Options{Depth: 16})
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	// C4. A run makes a result; the server, in the same process, starts what
	// serves trims.
	if n := after.Mallocs - before.Mallocs; n > 100+result.Requests()/100 {
		t.Errorf("%d allocations for %d requests", n, result.Requests())
	}
}
