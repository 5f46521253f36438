package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/nbd/client"
)

// Options says what load to make.
type Options struct {
	Network, Address string // of the server, as package net calls them
	Export           string

	Pattern     Pattern
	Reads       int // percent of the requests of Mixed
	Depth       int // requests outstanding on each connection
	Connections int
	Size        int           // bytes of a request
	Duration    time.Duration // of measuring; 0 for no limit
	Count       int64         // requests, of all connections; 0 for no limit
	First       int64         // byte of the device at which the range begins
	Range       int64         // bytes of it; 0 for the rest of the device
	Seed        uint64
	Content     string // see LoadContent
	Verify      bool
	Fill        bool // write the range once, before
	Destroy     bool // what is on the device may be overwritten
}

// maxConnections bounds what memory a run takes: 2 MiB for each.
const maxConnections = 256

// grace is how long requests that are outstanding are waited for after an interrupt.
const grace = 5 * time.Second

func (o *Options) writes() bool { return o.Pattern.Writes() || o.Fill }

// validate says what is wrong with the options, but for what the device decides.
func (o *Options) validate() error {
	known := false
	for _, p := range Patterns {
		known = known || p == o.Pattern
	}
	switch {
	case !known:
		return cli.Misuse("the patterns are "+patternList(), "there is no pattern %q", o.Pattern)
	case o.writes() && !o.Destroy:
		what := "the pattern " + string(o.Pattern)
		if !o.Pattern.Writes() {
			what = "--fill"
		}
		return cli.Misuse("if nothing on it is needed, say so with --destroy-content", "%s overwrites what is on the device", what)
	case o.Depth < 1 || o.Depth > client.MaxDepth:
		return cli.Misuse(fmt.Sprintf("write a number from 1 to %d", client.MaxDepth), "--depth %d is not possible", o.Depth)
	case o.Connections < 1 || o.Connections > maxConnections:
		return cli.Misuse(fmt.Sprintf("write a number from 1 to %d", maxConnections), "--connections %d is not possible", o.Connections)
	case o.Size < pageSize || o.Size > client.MaxLength || o.Size%pageSize != 0:
		return cli.Misuse(fmt.Sprintf("write a multiple of 4KiB, up to %s", cli.Bytes(client.MaxLength)), "requests of %d bytes are not possible", o.Size)
	case o.Pattern == Swap && o.Size != pageSize:
		return cli.Misuse("leave --size out", "the pattern swap has requests of one page")
	case o.Reads < 0 || o.Reads > 100:
		return cli.Misuse("write a percentage", "--reads %d is not possible", o.Reads)
	case o.Duration < 0 || o.Count < 0 || o.Duration == 0 && o.Count == 0:
		return cli.Misuse("give --duration, or --count, or both", "the load would have no end")
	case o.First < 0 || o.Range < 0 || o.First%pageSize != 0:
		return cli.Misuse("write it in whole pages of 4KiB", "--range does not begin with a page")
	}
	return nil
}

func patternList() string {
	var names []string
	for _, p := range Patterns {
		names = append(names, string(p))
	}
	return strings.Join(names, ", ")
}

// run is one run of Run.
type run struct {
	Options
	content *Content
	conns   []*client.Conn
	parts   []*part
}

// Phase is what a run is at.
type Phase string

// The phases.
const (
	Filling   Phase = "filling"
	Measuring Phase = "measuring"
	Checking  Phase = "checking"
)

// Status is how far a phase is.
type Status struct {
	Phase    Phase
	Elapsed  time.Duration
	Requests uint64
	Bytes    uint64
	Of       uint64 // requests that there will be, if that is known
}

// Run makes the load. tell is called now and then by a goroutine of Run's own. An
// error that says which pages were wrong comes with the report.
func Run(ctx context.Context, o Options, tell func(Status)) (Report, error) {
	if err := o.validate(); err != nil {
		return Report{}, err
	}
	r := &run{Options: o}
	if err := r.open(ctx); err != nil {
		return Report{}, err
	}
	defer r.close()
	if o.writes() {
		var err error
		if r.content, err = LoadContent(o.Content, o.Seed); err != nil {
			return Report{}, err
		}
	}
	r.divide()
	return r.phases(ctx, tell)
}

// open connects, and checks what the server says of the export.
func (r *run) open(ctx context.Context) error {
	for range r.Connections {
		c, err := client.Dial(ctx, r.Network, r.Address, r.Export)
		if err != nil {
			r.close()
			return cli.Failure("is a server there, and has it the export? nbdinfo --list tells; tmemctl export list for tmemd", "%v", err)
		}
		r.conns = append(r.conns, c)
	}
	c := r.conns[0]
	size := c.Size() / pageSize * pageSize
	if r.Range == 0 {
		r.Range = size - r.First
	}
	r.Range = r.Range / int64(r.Connections) / int64(r.Size) * int64(r.Size) * int64(r.Connections)
	var wrong error
	switch {
	case r.First+r.Range > size || r.First >= size:
		wrong = cli.Misuse("leave --range out to use all of it", "the range ends beyond the device, which has %s", cli.Bytes(uint64(c.Size())))
	case r.Range == 0:
		wrong = cli.Misuse("make the range larger, or --size or --connections less", "the range has no room for one request of each connection")
	case r.writes() && c.Flags()&client.ReadOnly != 0:
		wrong = cli.Failure("choose a pattern that reads, or another export", "the server does not allow writes to this export")
	case r.writes() && r.Connections > 1 && c.Flags()&client.CanMulti == 0:
		wrong = cli.Failure("use --connections 1", "the server does not promise that several connections see each other's writes")
	}
	if wrong != nil {
		r.close()
	}
	return wrong
}

func (r *run) close() {
	for _, c := range r.conns {
		c.Close()
	}
}

// divide gives each connection a part of the range. Versions begin with the time, so
// that an earlier run's are others.
func (r *run) divide() {
	base := uint32(time.Now().UnixNano()>>20) & versionMask
	pages := int(r.Range / int64(r.Connections) / pageSize)
	for i := range r.conns {
		first := uint64(r.First)/pageSize + uint64(i*pages)
		r.parts = append(r.parts, newPart(&r.Options, r.content, base, first, pages, uint64(i)))
	}
}

// workload is the one that is measured.
func (r *run) workload(i int) client.Workload {
	p := r.parts[i]
	var w client.Workload
	switch r.Pattern {
	case RandomRead:
		w = &dice{part: p, reads: 100}
	case RandomWrite:
		w = &dice{part: p, reads: 0}
	case Mixed:
		w = &dice{part: p, reads: r.Reads}
	case SequentialRead:
		w = &sequence{part: p, turns: -1}
	case SequentialWrite:
		w = &sequence{part: p, writes: true, turns: -1}
	case Swap:
		w = &swapping{part: p, trims: r.conns[i].Flags()&client.CanTrim != 0}
	}
	if r.Count > 0 {
		n := int64(len(r.parts))
		w = &limited{w, (r.Count + n - 1 - int64(i)) / n}
	}
	return w
}

func (r *run) phases(ctx context.Context, tell func(Status)) (Report, error) {
	if r.Fill {
		_, err := r.phase(ctx, tell, Filling, uint64(r.Range)/uint64(r.Size), 0, func(i int) client.Workload {
			return &sequence{part: r.parts[i], writes: true, turns: 1}
		})
		if err := errors.Join(err, ctx.Err()); err != nil {
			return Report{}, fmt.Errorf("fill the range: %w", err)
		}
	}
	measured, err := r.phase(ctx, tell, Measuring, uint64(r.Count), r.Duration, r.workload)
	if err != nil {
		return Report{}, err
	}
	if r.Verify && r.Pattern.Writes() && ctx.Err() == nil {
		left := uint64(0)
		for _, p := range r.parts {
			left += uint64(len(p.slots))
		}
		if _, err := r.phase(ctx, tell, Checking, left, 0, func(i int) client.Workload {
			return &scan{part: r.parts[i]}
		}); err != nil {
			return Report{}, fmt.Errorf("read back what was written: %w", err)
		}
	}
	report := r.report(measured)
	if v := report.Verified; v != nil && v.Wrong > 0 {
		return report, cli.Failure("do not trust the device, the server or the network with data before it is known why",
			"pages with wrong content: %d\n%s", v.Wrong, strings.Join(v.WrongPages, "\n"))
	}
	return report, nil
}

// phase drives all connections at once, each with its workload.
func (r *run) phase(ctx context.Context, tell func(Status), phase Phase, of uint64, duration time.Duration, workload func(int) client.Workload) (*client.Result, error) {
	hard, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	for _, p := range r.parts {
		p.progress.requests.Store(0)
		p.progress.bytes.Store(0)
	}
	stop := context.AfterFunc(ctx, func() {
		for _, p := range r.parts {
			p.progress.stopped.Store(true)
		}
		time.AfterFunc(grace, func() { cancel(context.Cause(ctx)) })
	})
	defer stop()
	end := r.watch(tell, phase, of)
	defer end()

	results := make([]*client.Result, len(r.conns))
	errs := make([]error, len(r.conns))
	var running sync.WaitGroup
	for i, c := range r.conns {
		running.Go(func() {
			results[i], errs[i] = c.Run(hard, workload(i), client.Options{Depth: r.Depth, Duration: duration})
			if errs[i] != nil {
				cancel(errs[i]) // the others would go on for nothing
			}
		})
	}
	running.Wait()
	if err := context.Cause(hard); err != nil {
		return nil, err
	}
	all := new(client.Result)
	for _, result := range results {
		all.Merge(result)
	}
	return all, nil
}

// tellEvery is how often progress is told.
const tellEvery = 500 * time.Millisecond

// watch tells progress until end is called.
func (r *run) watch(tell func(Status), phase Phase, of uint64) (end func()) {
	if tell == nil {
		return func() {}
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	start := time.Now()
	watching.Go(func() {
		tick := time.NewTicker(tellEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			s := Status{Phase: phase, Elapsed: time.Since(start), Of: of}
			for _, p := range r.parts {
				s.Requests += p.progress.requests.Load()
				s.Bytes += p.progress.bytes.Load()
			}
			tell(s)
		}
	})
	return func() {
		close(done)
		watching.Wait()
	}
}
