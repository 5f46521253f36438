package nbd

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testServer is a server on a Unix socket, closed at the end of the test.
type testServer struct {
	*Server
	path string
}

// startServer serves config on a new Unix socket.
func startServer(t testing.TB, config Config) *testServer {
	t.Helper()
	s, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "nbd.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after serving has ended, on each of its listeners
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if mapped, lent := s.pool.usage(); mapped != 0 || lent != 0 {
			t.Errorf("after Close the pool maps %d bytes and lends %d", mapped, lent)
		}
	})
	serveUntilCleanup(t, s, l)
	return &testServer{Server: s, path: path}
}

// serveUntilCleanup serves a listener, and ends that before what the test
// registered for its end until now.
func serveUntilCleanup(t testing.TB, s *Server, l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// eventually waits for something that other goroutines bring about.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came true: %s", what)
		}
	}
}
