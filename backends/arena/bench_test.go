package arena

import (
	"testing"
)

// BenchmarkFill asks what it costs to fill an arena for the first time, when each
// page of it is touched, and again, when none is.
func BenchmarkFill(b *testing.B) {
	for _, where := range []string{"process", "folder"} {
		b.Run(where, func(b *testing.B) {
			h := newHome(b)
			var at Place
			if where == "folder" {
				at = h.open(false)
				defer at.Folder.Close()
			}
			const size = 64 << 20
			o := object(1, 1400)
			for _, touch := range []string{"first", "again"} {
				b.Run(touch, func(b *testing.B) {
					n := 0
					var a *Arena
					var refs []Ref
					fill := func() {
						var err error
						if a, err = Create(at, "test arena", size, size); err != nil {
							b.Fatal(err)
						}
						refs = refs[:0]
					}
					fill()
					put := func() bool {
						ref, ok := a.Put(o)
						if ok {
							refs = append(refs, ref)
						}
						return ok
					}
					if touch == "again" {
						for put() {
						}
					}
					b.ResetTimer()
					for range b.N {
						if touch == "again" {
							a.Free(refs[n%len(refs)])
							if ref, ok := a.Put(o); ok {
								refs[n%len(refs)] = ref
							}
							n++
							continue
						}
						if !put() {
							b.StopTimer()
							if err := a.Close(); err != nil {
								b.Fatal(err)
							}
							fill()
							b.StartTimer()
						}
					}
					b.StopTimer()
					if err := a.Close(); err != nil {
						b.Fatal(err)
					}
				})
			}
		})
	}
}
