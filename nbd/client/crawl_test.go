package client

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestCrawl(t *testing.T) {
	_, address := serve(t, "unix", 64, false)
	c := dial(t, "unix", address)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type outcome struct {
		received int64
		err      error
	}
	ended := make(chan outcome)
	go func() {
		received, err := c.Crawl(ctx, 1000, time.Millisecond)
		ended <- outcome{received, err}
	}()
	// Others are served meanwhile.
	other := dial(t, "unix", address)
	content := NewContent(newSamples(4), 0, 64)
	for range 5 {
		if _, err := other.Run(t.Context(), NewFill(content), Options{Depth: 4}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	got := <-ended
	if got.err != nil || got.received == 0 || got.received%1000 != 0 {
		t.Errorf("%d bytes received, error %v", got.received, got.err)
	}
}

// TestCrawlGoesOn reads more than it first asks for.
func TestCrawlGoesOn(t *testing.T) {
	_, address := serve(t, "unix", 64, false)
	c := dial(t, "unix", address)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	received, err := c.Crawl(ctx, receiveBytes, 50*time.Microsecond)
	if err != nil || received <= crawlDepth*(replySize+MaxLength) {
		t.Errorf("%d bytes received, error %v", received, err)
	}
}

func TestCrawlErrors(t *testing.T) {
	_, address := serve(t, "unix", 8, false)
	if _, err := dial(t, "unix", address).Crawl(t.Context(), 1, time.Millisecond); err == nil {
		t.Error("an export smaller than a request: no error")
	}
	_, address = serve(t, "unix", 64, false)
	c := dial(t, "unix", address)
	if _, err := c.Crawl(t.Context(), 0, time.Millisecond); err == nil {
		t.Error("nothing at a time: no error")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Crawl(t.Context(), 1, time.Millisecond); err == nil || !strings.Contains(err.Error(), "crawl: send") {
		t.Errorf("a closed connection: %v", err)
	}
}

// TestAttach takes up all connections that the server has.
func TestAttach(t *testing.T) {
	const most = 256 // the server's default
	_, address := serve(t, "unix", 8, false)
	for i := range most {
		c, err := Attach(t.Context(), "unix", address, exportName)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		t.Cleanup(func() { c.Close() })
	}
	if _, err := Attach(t.Context(), "unix", address, exportName); err == nil {
		t.Error("one more than the server takes: no error")
	}
	if _, err := Attach(t.Context(), "unix", address+".missing", exportName); err == nil {
		t.Error("no server: no error")
	}
}
