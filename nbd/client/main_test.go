package client

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/nbd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a device in memory.
type memory struct {
	mu   sync.RWMutex
	data []byte // guarded by mu
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
	return copy(m.data[off:], p), nil
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

func (m *memory) Sync() error { return nil }

func (m *memory) Trim(off, length int64) error { return m.WriteZeroes(off, length, true) }

func (m *memory) Prefetch(_, _ int64) error { return nil }

func (m *memory) WriteZeroes(off, length int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.data[off : off+length])
	return nil
}

// page is a copy of one page of the device.
func (m *memory) page(i int) []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Clone(m.data[i*PageSize : (i+1)*PageSize])
}

// samples is a source of pages that all differ.
type samples [][]byte

func (s samples) Pages() int        { return len(s) }
func (s samples) Page(i int) []byte { return s[i] }

func newSamples(n int) samples {
	random := rand.New(rand.NewPCG(3, 4))
	s := make(samples, n)
	for i := range s {
		s[i] = make([]byte, PageSize)
		for j := range s[i] {
			s[i][j] = byte(random.Uint32())
		}
	}
	return s
}

const exportName = "memory"

// serve starts a server with an export of that many pages, and returns where it
// listens.
func serve(t *testing.T, network string, pages int, readOnly bool) (device *memory, address string) {
	t.Helper()
	device = &memory{data: make([]byte, pages*PageSize)}
	server, err := nbd.NewServer(nbd.Config{
		Exports: []nbd.Export{{Name: exportName, Device: device, ReadOnly: readOnly}},
	})
	if err != nil {
		t.Fatal(err)
	}
	address = "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "nbd.sock")
	}
	listener, err := net.Listen(network, address)
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

func dial(t *testing.T, network, address string) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), network, address, exportName)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
