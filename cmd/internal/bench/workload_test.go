package bench

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/nbd/client"
)

func testContent(t *testing.T) *Content {
	t.Helper()
	content, err := LoadContent("mix", 1)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func testPart(content *Content, pages, unit int) *part {
	return newPart(&Options{Seed: 3, Size: unit * pageSize, Verify: true}, content, 100, 10, pages, 0)
}

// TestOneRequestForAPage is N2, for workloads whose requests are answered in any order.
func TestOneRequestForAPage(t *testing.T) {
	content := testContent(t)
	rapid.Check(t, func(rt *rapid.T) {
		unit := rapid.SampledFrom([]int{1, 4}).Draw(rt, "unit")
		p := testPart(content, 64, unit)
		workloads := map[string]client.Workload{
			"dice":     &dice{part: p, reads: 50},
			"sequence": &sequence{part: p, writes: true, turns: -1},
		}
		if unit == 1 {
			workloads["swapping"] = &swapping{part: p, trims: true}
		}
		names := []string{"dice", "sequence", "swapping"}[:len(workloads)]
		w := workloads[rapid.SampledFrom(names).Draw(rt, "workload")]
		device := make([]byte, 64*pageSize)
		var outstanding []client.Request
		out := map[uint64]bool{}
		for range rapid.IntRange(1, 400).Draw(rt, "steps") {
			var r client.Request
			if len(outstanding) < 16 && w.Next(&r) {
				for page := r.Offset / pageSize; page < (r.Offset+uint64(r.Length))/pageSize; page++ {
					if page < 10 || page >= 74 || out[page] {
						rt.Fatalf("%v of page %d, which is outside or has a request", r.Command, page)
					}
					out[page] = true
				}
				at := r.Offset - 10*pageSize
				switch r.Command { // the device is fast, its answers are not
				case client.Write:
					copy(device[at:], r.Data)
				case client.Read:
					r.Received = append([]byte(nil), device[at:at+uint64(r.Length)]...)
				case client.Trim:
					clear(device[at : at+uint64(r.Length)])
				}
				outstanding = append(outstanding, r)
				continue
			}
			if len(outstanding) == 0 {
				rt.Fatal("a workload without end has nothing to do")
			}
			i := rapid.IntRange(0, len(outstanding)-1).Draw(rt, "answered")
			r = outstanding[i]
			outstanding = append(outstanding[:i], outstanding[i+1:]...)
			for page := r.Offset / pageSize; page < (r.Offset+uint64(r.Length))/pageSize; page++ {
				delete(out, page)
			}
			w.Done(&r)
		}
		if p.wrong > 0 {
			rt.Fatalf("wrong: %v", p.told)
		}
		for place, i := range p.slots {
			if p.versions[i]&known == 0 || p.where[i] != uint32(place) {
				rt.Fatalf("page %d is among those that are known, at %d", i, place)
			}
		}
		n := 0
		for _, v := range p.versions {
			if v&known != 0 {
				n++
			}
		}
		if n != len(p.slots) {
			rt.Fatalf("%d pages are known, %d are listed", n, len(p.slots))
		}
	})
}

// TestWorkloadsDoNotAllocate is N4.
func TestWorkloadsDoNotAllocate(t *testing.T) {
	content := testContent(t)
	for name, workload := range map[string]func(*part) client.Workload{
		"random":     func(p *part) client.Workload { return &dice{part: p, reads: 50} },
		"sequential": func(p *part) client.Workload { return &sequence{part: p, writes: true, turns: -1} },
		"swap":       func(p *part) client.Workload { return &limited{&swapping{part: p, trims: true}, 1 << 40} },
	} {
		t.Run(name, func(t *testing.T) {
			w := workload(testPart(content, 256, 1))
			var r client.Request
			received := [pageSize]byte{}
			if n := testing.AllocsPerRun(5000, func() {
				if !w.Next(&r) {
					t.Fatal("it has ended")
				}
				r.Received = received[:]
				w.Done(&r)
			}); n > 0 {
				t.Errorf("%v allocations for a request", n)
			}
		})
	}
}

func TestStamp(t *testing.T) {
	s, other := newStamper(1), newStamper(2)
	page := make([]byte, pageSize)
	content, err := LoadContent("random", 1)
	if err != nil {
		t.Fatal(err)
	}
	copy(page, content.Page(0))
	if v := s.check(5, 0, false, page); v != unstamped {
		t.Errorf("a page without a stamp: %v", v)
	}
	if v := s.check(5, 9, true, page); v != wrong {
		t.Errorf("a page that should have one: %v", v)
	}
	s.put(page, stamp{1<<40 - 1, versionMask}, content.rests[0])
	if is, ok := s.read(page); !ok || is != (stamp{1<<40 - 1, versionMask}) {
		t.Errorf("read %+v, %v", is, ok)
	}
	for _, test := range []struct {
		by      *stamper
		page    uint64
		version uint32
		known   bool
		want    verdict
	}{
		{s, 1<<40 - 1, versionMask, true, right}, {s, 1<<40 - 1, 4, false, right},
		{s, 1<<40 - 1, 4, true, wrong}, {s, 7, versionMask, true, wrong}, {s, 7, 0, false, wrong}, {other, 1<<40 - 1, 0, false, unstamped},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			if got := test.by.check(test.page, test.version, test.known, page); got != test.want {
				t.Errorf("verdict %v, want %v", got, test.want)
			}
		})
	}
	for i := range page {
		page[i] ^= 0x10
		if v := s.check(1<<40-1, versionMask, true, page); v != wrong {
			t.Fatalf("a bit of byte %d is flipped, verdict %v", i, v)
		}
		page[i] ^= 0x10
	}
}
