package remotebench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tmemd/tmemd/nbd/client"
)

// freePort is one that nobody listened at a moment ago.
func freePort(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// start runs a server until the benchmark ends, and waits until it listens.
func start(b *testing.B, port, name string, arguments ...string) {
	path, err := exec.LookPath(name)
	if err != nil {
		b.Fatalf("%v: install the Debian packages nbdkit and redis-server", err)
	}
	server := exec.Command(path, arguments...)
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s does not listen: %v", name, err)
		}
	}
}

// disk is an NBD server as a remote RAM disk. Its client is the one that the other
// benchmarks have: one thread, which keeps so many requests outstanding.
type disk struct {
	conn    *client.Conn
	content *client.Content
}

func newNbdkit(b *testing.B, pages int, source client.Pages) contender {
	port := freePort(b)
	start(b, port, "nbdkit", "--foreground", "--port", port, "--ipaddr", "127.0.0.1", "memory", fmt.Sprintf("size=%d", pages*client.PageSize))
	conn, err := client.Dial(context.Background(), "tcp", "127.0.0.1:"+port, "")
	if err != nil {
		b.Fatal(err)
	}
	return &disk{conn, client.NewContent(source, 0, pages)}
}

func (d *disk) fill() error {
	_, err := d.conn.Run(context.Background(), client.NewFill(d.content), client.Options{Depth: 16})
	return err
}

func (d *disk) measure(c cell) (float64, error) {
	var work client.Workload = client.NewRandomRead(d.content, 1, 1)
	if c.writes {
		work = client.NewRandomWrite(d.content, 1)
	}
	result, err := d.conn.Run(context.Background(), work, client.Options{Depth: c.depth, Duration: cellTime})
	if err != nil {
		return 0, err
	}
	if !c.latency {
		return result.Rate(), nil
	}
	times := &result.Reads
	if c.writes {
		times = &result.Writes
	}
	return float64(times.Quantile(0.5).Nanoseconds()) / 1e3, nil
}

func (d *disk) close() error { return d.conn.Close() }

// store is Redis. So many requests outstanding are a pipeline of so many commands, which
// is sent when the one before was answered.
type store struct {
	client *redis.Client
	source client.Pages
	keys   []string
}

func newRedis(b *testing.B, pages int, source client.Pages) contender {
	port := freePort(b)
	start(b, port, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	s := &store{client: redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port}), source: source}
	for page := range pages {
		s.keys = append(s.keys, strconv.Itoa(page))
	}
	return s
}

func (s *store) fill() error {
	for page := range s.keys {
		if err := s.client.Set(context.Background(), s.keys[page], s.source.Page(page), 0).Err(); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) measure(c cell) (float64, error) {
	ctx := context.Background()
	random := rand.New(rand.NewPCG(1, 1))
	var latencies []time.Duration
	begin, last, done := time.Now(), time.Now(), 0
	for last.Sub(begin) < cellTime {
		pipe := s.client.Pipeline()
		asked := make([]int, c.depth)
		for i := range asked {
			asked[i] = random.IntN(len(s.keys))
			if c.writes {
				pipe.Set(ctx, s.keys[asked[i]], s.source.Page(asked[i]), 0)
			} else {
				pipe.Get(ctx, s.keys[asked[i]])
			}
		}
		answers, err := pipe.Exec(ctx)
		if err != nil {
			return 0, err
		}
		for i, a := range answers {
			if get, ok := a.(*redis.StringCmd); ok && get.Val() != string(s.source.Page(asked[i])) {
				return 0, fmt.Errorf("page %d: other bytes", asked[i])
			}
		}
		done += c.depth
		now := time.Now()
		latencies = append(latencies, now.Sub(last))
		last = now
	}
	return figure(c, done, last.Sub(begin), latencies), nil
}

func (s *store) close() error { return s.client.Close() }
