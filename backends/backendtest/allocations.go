package backendtest

import (
	"testing"

	"github.com/tmemd/tmemd/backends"
)

// RunAllocations tests that the backend does not allocate on the Go heap when
// pages come and go (B18). The reference backend does.
func RunAllocations(t *testing.T, newBackend New) {
	for content := range Contents {
		t.Run(content.String(), func(t *testing.T) {
			s := newSubject(t, newBackend)
			s.mustInit(1)
			page := Page(content, 3)
			dst := make([]byte, backends.PageSize)
			number := uint64(0)
			got := testing.AllocsPerRun(500, func() {
				key := backends.Key{Export: 1, Page: number}
				number++
				handle, refusal, err := s.Store(key, page)
				if err != nil {
					t.Fatal(err)
				}
				if refusal != backends.Accepted {
					return
				}
				if err := s.Load(key, handle, dst); err != nil {
					t.Fatal(err)
				}
				s.Invalidate(key, handle)
			})
			if got != 0 {
				t.Errorf("B18: Store, Load and Invalidate of a %v page allocate %v times", content, got)
			}
		})
	}
}
