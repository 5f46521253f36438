package tier

import (
	"fmt"
	"testing"

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
