package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/deploy/corpus"
	"github.com/tmemd/tmemd/nbd/client"
)

// adverseConfiguration lets as many clients attach as one of the disturbances
// has.
const adverseConfiguration = "[nbd]\nmax_connections = 2048\n"

// settle is the time between a disturbance's end and the next quiet cell: the
// server still has connections to clear away.
const settle = 100 * time.Millisecond

// pair is a disturbed cell and the quiet one before it.
type pair struct{ quiet, disturbed cell }

// adversity is all pairs of one disturbance. That of no disturbance at all says
// how much a cell varies by itself.
type adversity struct {
	title string
	pairs []pair
}

// victim is the daemon whose clients are disturbed.
type victim struct {
	process *running
	options options
	stuck   int    // page that is on storage
	random  []byte // what it holds
}

// measureAdverse measures reads from the daemon's memory, quiet and disturbed in
// turn.
func measureAdverse(ctx context.Context, pages *corpus.Corpus, o options) (_ []adversity, err error) {
	path, err := findTmemd(ctx, o)
	if err != nil {
		return nil, err
	}
	s := server{name: serverTmemd, prepare: tmemd(path, adverseConfiguration, "--backend", "zcache", "--allow-faults")}
	process, conn, err := s.start(ctx, filepath.Join(o.folder, "adverse"), pages.Pages())
	if err != nil {
		return nil, err
	}
	defer process.end()
	defer conn.Close()

	v := &victim{process: process, options: o, stuck: pages.Pages() / 2}
	content, err := v.fill(ctx, conn, pages)
	if err != nil {
		return nil, fmt.Errorf("adverse conditions: fill: %w", err)
	}
	all := []adversity{{title: "quiet again"}}
	for _, d := range disturbances {
		all = append(all, adversity{title: d.title})
	}
	read := column{readQD16, 16, randomRead, timed}
	measure := func(n int) (cell, error) {
		return read.measure(ctx, process, conn, content, o.seed+uint64(n), o.cell)
	}
	if err := awaitIdle(ctx, process.pid()); err != nil {
		return nil, err
	}
	var last cell
	for n := range o.adverse {
		for i, d := range disturbances {
			quiet, err := measure(n)
			if err != nil {
				return nil, err
			}
			if n+i > 0 {
				all[0].pairs = append(all[0].pairs, pair{last, quiet})
			}
			last = quiet
			end, err := d.begin(ctx, v)
			if err != nil {
				return nil, fmt.Errorf("adverse conditions: %w", err)
			}
			disturbed, err := measure(n)
			if err := errors.Join(err, end()); err != nil {
				return nil, fmt.Errorf("adverse conditions: %s: %w", d.title, err)
			}
			all[i+1].pairs = append(all[i+1].pairs, pair{quiet, disturbed})
			time.Sleep(settle)
		}
	}
	return all, nil
}

// fill fills the export with pages that zcache keeps, so that the p99 is not that
// of a disk, but for one in the middle that it refuses. The content that is
// returned leaves that one alone.
func (v *victim) fill(ctx context.Context, conn *client.Conn, pages *corpus.Corpus) (*client.Content, error) {
	source, err := compressible(pages)
	if err != nil {
		return nil, err
	}
	content := client.NewContent(source, 0, pages.Pages())
	if _, err := conn.Run(ctx, client.NewFill(content), client.Options{Depth: 16}); err != nil {
		return nil, err
	}
	v.random = make([]byte, pageSize)
	random := rand.New(rand.NewPCG(v.options.seed, 1))
	for i := range v.random {
		v.random[i] = byte(random.Uint32())
	}
	write := client.Limit(&samePage{client.Request{Command: client.Write, Offset: uint64(v.stuck) * pageSize, Length: pageSize, Data: v.random}}, 1)
	if _, err := conn.Run(ctx, write, client.Options{Depth: 1}); err != nil {
		return nil, err
	}
	content.Forget(v.stuck)
	return content, nil
}

// selection is some of a corpus' pages.
type selection struct {
	pages *corpus.Corpus
	of    []int
}

func (s *selection) Pages() int        { return len(s.of) }
func (s *selection) Page(i int) []byte { return s.pages.Page(s.of[i]) }

// compressible selects the pages that lz4 makes half as large or smaller.
func compressible(pages *corpus.Corpus) (*selection, error) {
	s := &selection{pages: pages}
	var compressor lz4.Compressor
	half := make([]byte, pageSize/2)
	for i := range pages.Pages() {
		// A destination that is too short is an error or a length of 0.
		if n, err := compressor.CompressBlock(pages.Page(i), half); err == nil && n > 0 {
			s.of = append(s.of, i)
		}
	}
	if len(s.of) == 0 {
		return nil, errors.New("no page of the corpus can be compressed to half")
	}
	return s, nil
}
