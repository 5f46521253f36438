package bench

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/nbd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a device in memory that may go wrong.
type memory struct {
	mu   sync.RWMutex
	data []byte // guarded by mu

	// lie changes what a write of a page does; nil for a device that does not.
	lie func(m *memory, p []byte, page int64) bool

	trims int // guarded by mu
}

func (m *memory) Size() (int64, error) { return int64(len(m.data)), nil }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return copy(p, m.data[off:]), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := 0; at < len(p); at += pageSize {
		page := p[at:min(len(p), at+pageSize)]
		if m.lie == nil || !m.lie(m, page, (off+int64(at))/pageSize) {
			copy(m.data[off+int64(at):], page)
		}
	}
	return len(p), nil
}

func (m *memory) TryReadAt(p []byte, off int64) bool {
	_, err := m.ReadAt(p, off)
	return err == nil
}

func (m *memory) TryWriteAt(p []byte, off int64) int {
	n, _ := m.WriteAt(p, off)
	return n
}

func (m *memory) Extents(_, length int64, report func(int64, bool, uint32) bool) error {
	report(length, false, 0)
	return nil
}

func (m *memory) Sync() error                  { return nil }
func (m *memory) Prefetch(_, _ int64) error    { return nil }
func (m *memory) Trim(off, length int64) error { return m.WriteZeroes(off, length, true) }

func (m *memory) WriteZeroes(off, length int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trims++
	clear(m.data[off : off+length])
	return nil
}

func (m *memory) content() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Clone(m.data)
}

func (m *memory) discards() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.trims
}

func (m *memory) fill(b byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.data {
		m.data[i] = b
	}
}

const exportName = "scratch"

// serve starts a server with an export of that many pages.
func serve(t *testing.T, pages int, readOnly bool) (*memory, string) {
	t.Helper()
	device := &memory{data: make([]byte, pages*pageSize)}
	server, err := nbd.NewServer(nbd.Config{Exports: []nbd.Export{{Name: exportName, Device: device, ReadOnly: readOnly}}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "nbd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(ctx, listener); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		server.Close()
	})
	return device, listener.Addr().String()
}

// options are of a run that may write, of 2,000 requests.
func options(address string, pattern Pattern) Options {
	return Options{
		Network: "unix", Address: address, Export: exportName, Pattern: pattern, Reads: 50, Depth: 8, Connections: 1, Size: pageSize,
		Count: 2000, Seed: 7, Content: "mix", Verify: true, Destroy: true,
	}
}

const patience = 20 * time.Second
