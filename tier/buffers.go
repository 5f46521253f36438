package tier

import (
	"errors"
	"sync"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

// Buffers lends memory for I/O that must be aligned to the files of a daemon. There
// are as many buffers as files use at once, and some that are kept for the next one:
// of the first files as many as these may use at once, so that the daemon of a host
// that swaps to itself never has to make one while memory is short. A thousand idle
// files have no more.
//
// What one file may use at once is the file's own bound (bounceCount): nobody waits
// here for somebody else's storage.
//
// The zero value is ready for use. Methods may be called from any goroutine.
type Buffers struct {
	mu    sync.Mutex
	files int
	made  int                 // buffers that there are, lent ones included
	free  []*sharedmem.Region // the one used last comes first
}

// Bounce buffers exist because O_DIRECT wants aligned memory, and requests
// arrive wherever the socket put them.
const (
	bounceSize  = 128 << 10
	bounceCount = 16 // at most, for each file
	bounceFiles = 4  // so many files have theirs kept
)

// keepLocked is how many buffers there are at least. REQUIRES: mu held.
func (b *Buffers) keepLocked() int { return min(b.files, bounceFiles) * bounceCount }

// join says that there is one more file, and makes what is kept for it.
func (b *Buffers) join() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files++
	for b.made < b.keepLocked() {
		r, err := newBuffer()
		if err != nil {
			b.files--
			return errors.Join(err, b.trimLocked())
		}
		b.made++
		b.free = append(b.free, r)
	}
	return nil
}

// leave says that there is one file less; it has given back what it had.
func (b *Buffers) leave() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files--
	return b.trimLocked()
}

// trimLocked gives up what is free beyond what is kept. REQUIRES: mu held.
func (b *Buffers) trimLocked() (err error) {
	for b.made > b.keepLocked() && len(b.free) > 0 {
		last := len(b.free) - 1
		err = errors.Join(err, b.free[last].Close())
		b.free, b.made = b.free[:last], b.made-1
	}
	return err
}

// get lends a buffer of bounceSize bytes. It waits for nobody.
func (b *Buffers) get() (*sharedmem.Region, error) {
	b.mu.Lock()
	if last := len(b.free) - 1; last >= 0 {
		r := b.free[last]
		b.free = b.free[:last]
		b.mu.Unlock()
		return r, nil
	}
	b.made++
	b.mu.Unlock()
	r, err := newBuffer()
	if err != nil {
		b.mu.Lock()
		b.made--
		b.mu.Unlock()
	}
	return r, err
}

// put takes it back.
func (b *Buffers) put(r *sharedmem.Region) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = append(b.free, r)
	_ = b.trimLocked() // unmapping what was mapped does not fail
}

func newBuffer() (*sharedmem.Region, error) { return sharedmem.NewPrivate(buffersPurpose, bounceSize) }

const buffersPurpose = "storage buffers"

// Usage is what all of them take.
func (b *Buffers) Usage() sharedmem.Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	size := int64(b.made) * bounceSize
	return sharedmem.Usage{Purpose: buffersPurpose, Mapped: size, Resident: size}
}
