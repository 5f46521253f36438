package tier

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// BenchmarkDevice asks what a page costs on its way through the tier, frontswap
// and zcache, with made-up pages like a busy system's; deploy/bench asks the
// same with pages of real processes and through a socket.
func BenchmarkDevice(b *testing.B) {
	const pages = 16 << 10
	f := newFrontswap()
	d := openDevice(b, newMemoryStorage(pages), f)
	z, err := zcache.New(zcache.Config{Limit: 256 << 20})
	if err != nil {
		b.Fatal(err)
	}
	register(b, f, "zcache", z)
	content := make([]byte, 1024*pageSize)
	for i := range 1024 {
		// Not random pages: zcache refuses those, and Try sends them away.
		backendtest.Fill(content[i*pageSize:][:pageSize], backendtest.Content(2+i%2), uint64(i))
	}
	page := func(i int) []byte { return content[i%1024*pageSize:][:pageSize] }
	for i := range pages {
		if d.TryWriteAt(page(i), int64(i)*pageSize) != pageSize {
			b.Fatal("a page was refused")
		}
	}
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			d.TryWriteAt(page(i+7), int64(i*7919%pages)*pageSize)
		}
	})
	dst := make([]byte, pageSize)
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			d.TryReadAt(dst, int64(i*7919%pages)*pageSize)
		}
	})
	for _, trim := range []int64{1, 512} {
		b.Run(fmt.Sprint("trim", trim), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				d.Trim(int64(i)*trim%pages*pageSize, trim*pageSize)
			}
		})
	}
}

// BenchmarkStoreWithoutBackend asks what frontswap costs an export while no
// backend is loaded: writes of a page through the device, beside the same path to
// storage without the question whether a backend takes it. Storage is memory. The
// two take turns in rounds that are too short for the machine to change, and the
// ratio is the median of theirs.
func BenchmarkStoreWithoutBackend(b *testing.B) {
	const pages, writes, rounds = 4096, 4096, 600
	d := openDevice(b, newMemoryStorage(pages), newFrontswap())
	page := backendtest.Page(backendtest.Structured, 1)
	asked := func(i uint64) error {
		_, err := d.WriteAt(page, int64(i%pages)*pageSize)
		return err
	}
	unasked := func(i uint64) error {
		_, err := unaskedDevice{d}.WriteAt(page, int64(i%pages)*pageSize)
		return err
	}
	alone := func(i uint64) error { return d.storage.WritePages(i%pages, page) }
	measure := func(write func(uint64) error) float64 {
		start := time.Now()
		for i := range uint64(writes) {
			if err := write(i * 7); err != nil {
				b.Fatal(err)
			}
		}
		return float64(time.Since(start).Nanoseconds()) / writes
	}
	for range b.N {
		var all [3][]float64
		var ratios []float64
		for round := range rounds {
			var took [3]float64
			for i := range took {
				// Each comes first as often as the others, and after each of them.
				which := (i + round) % len(took)
				if round/len(took)%2 == 1 {
					which = len(took) - 1 - which
				}
				took[which] = measure([]func(uint64) error{asked, unasked, alone}[which])
			}
			for i := range took {
				all[i] = append(all[i], took[i])
			}
			ratios = append(ratios, took[0]/took[1])
		}
		middle := func(list []float64) float64 { slices.Sort(list); return list[len(list)/2] }
		b.ReportMetric(middle(all[0]), "ns/asked")
		b.ReportMetric(middle(all[1]), "ns/unasked")
		b.ReportMetric(middle(all[2]), "ns/storage-alone")
		b.ReportMetric(middle(ratios), "asked/unasked")
	}
}

// unaskedDevice writes as a Device does, but never asks whether a backend takes a
// page.
type unaskedDevice struct{ *Device }

func (d unaskedDevice) WriteAt(p []byte, off int64) (int, error) {
	err := d.walk(p, off, d.writePages, d.writePart)
	if err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	return len(p), nil
}

func (d unaskedDevice) writePages(first uint64, p []byte) error {
	last := first + uint64(len(p)/pageSize)
	for page := first; page < last; page++ {
		d.area.Lock(page)
	}
	err := d.writeStorage(first, p)
	for page := first; page < last; page++ {
		d.area.Unlock(page)
	}
	return err
}
