package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/tmemd/tmemd/nbd/client"
)

// disturbance is what another client does while reads are measured.
type disturbance struct {
	title string
	// begin returns when the disturbance is there. The function that it returns
	// ends it, waits for that, and says if it was none.
	begin func(ctx context.Context, v *victim) (end func() error, err error)
}

var disturbances = []disturbance{
	{"slow reader", beginSlowReader},
	{"idle connections", beginIdle},
	{"stuck page", beginStuckPage},
}

// How slow the slow reader is.
const (
	crawlBytes = 1 << 10
	crawlPause = 10 * time.Millisecond
)

// beginSlowReader asks for megabytes and reads them a little at a time.
func beginSlowReader(ctx context.Context, v *victim) (func() error, error) {
	conn, err := client.Dial(ctx, "unix", v.process.socket, exportName)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var received int64
	var failed error
	var crawling sync.WaitGroup
	crawling.Go(func() { received, failed = conn.Crawl(ctx, crawlBytes, crawlPause) })
	time.Sleep(5 * crawlPause) // until the server has filled all that it can
	return func() error {
		cancel()
		crawling.Wait()
		conn.Close()
		if failed == nil && received == 0 {
			failed = errors.New("it received nothing")
		}
		return failed
	}, nil
}

// beginIdle attaches clients that do nothing.
func beginIdle(ctx context.Context, v *victim) (func() error, error) {
	var attached []io.Closer
	end := func() error {
		for _, c := range attached {
			c.Close()
		}
		return nil
	}
	for range v.options.idle {
		c, err := client.Attach(ctx, "unix", v.process.socket, exportName)
		if err != nil {
			end()
			return nil, fmt.Errorf("attach idle client %d: %w", len(attached)+1, err)
		}
		attached = append(attached, c)
	}
	return end, nil
}

// beginStuckPage reads a page from a storage that takes its time for it, again
// and again.
func beginStuckPage(ctx context.Context, v *victim) (func() error, error) {
	rule := fmt.Sprintf("read pages=%d delay=%v", v.stuck, v.options.stuck)
	if err := v.setFaults(ctx, rule); err != nil {
		return nil, err
	}
	conn, err := client.Dial(ctx, "unix", v.process.socket, exportName)
	if err != nil {
		return nil, err
	}
	var result *client.Result
	var failed error
	var reading sync.WaitGroup
	reading.Go(func() {
		again := &samePage{client.Request{Command: client.Read, Offset: uint64(v.stuck) * pageSize, Length: pageSize, Data: v.random}}
		result, failed = conn.Run(ctx, again, client.Options{Depth: 1, Duration: v.options.cell})
	})
	return func() error {
		reading.Wait()
		conn.Close()
		if failed != nil {
			return failed
		}
		// A bucket is 1.6 % wide.
		if shortest := result.Reads.Quantile(0); shortest < v.options.stuck*9/10 {
			return fmt.Errorf("a read of it took %v only", shortest)
		}
		return v.setFaults(ctx)
	}, nil
}

// samePage is a workload of one request, without end.
type samePage struct{ request client.Request }

func (w *samePage) Next(r *client.Request) bool {
	*r = w.request
	return true
}

func (w *samePage) Done(*client.Request) {}

// setFaults has the daemon's storage fail by these rules only: PUT /v1/faults of
// its admin API.
func (v *victim) setFaults(ctx context.Context, rules ...string) error {
	body, err := json.Marshal(map[string][]string{"rules": append([]string{}, rules...)})
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", filepath.Join(filepath.Dir(v.process.socket), "admin.sock"))
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://tmemd/v1/faults/"+exportName, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Transport: transport, Timeout: startLimit}).Do(request)
	if err != nil {
		return fmt.Errorf("set faults: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // what can be had of the reason
		return fmt.Errorf("set faults: %s: %s", response.Status, text)
	}
	return nil
}
