package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/deploy/corpus"
)

// TestMain lets the test binary be a server, as the command is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serveCommand {
		exit(serve(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == diskCommand {
		exit(runDisk(os.Args[2], os.Args[3], os.Args[4] == "true"))
	}
	goleak.VerifyTestMain(m)
}

// samplePages samples once for all tests, and for all benchmarks.
var (
	fewPages  = sync.OnceValues(func() (*corpus.Corpus, error) { return sampleMiB(1) })
	manyPages = sync.OnceValues(func() (*corpus.Corpus, error) { return sampleMiB(16) })
)

func sampleMiB(n int64) (*corpus.Corpus, error) {
	return corpus.Sample(context.Background(), corpus.Options{Bytes: n << 20, Seed: 1})
}

// sampled returns the pages or ends the test.
func sampled(tb testing.TB, sample func() (*corpus.Corpus, error)) *corpus.Corpus {
	tb.Helper()
	pages, err := sample()
	if err != nil {
		tb.Fatal(err)
	}
	return pages
}

// TestRun runs all of it, with little time for each cell.
func TestRun(t *testing.T) {
	var out strings.Builder
	o := options{
		pages: 256, seed: 1, rounds: 2, cell: 10 * time.Millisecond,
		adverse: 2, idle: 50, stuck: 50 * time.Millisecond,
		servers: append([]string{serverTier}, allServers...), folder: os.TempDir(),
	}
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	for _, want := range []string{
		"Go compile", "lz4 ratio", "allocations/page", "page map resident",
		"engine alone, raw", "tier, zcache (lz4)", "tmemd, zcache (lz4)", swapQD16, read4QD16, burst20,
		titles[serverGoNBD], "go-nbd memory, raw has no swap QD16", "stuck page", "quiet again",
		"engine alone to nbdkit raw", "Load average at the end",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the report", want)
		}
	}
	for _, name := range []string{serverNbdkit, serverZstd, serverQemu, serverKeep} {
		if !strings.Contains(out.String(), titles[name]) && !strings.Contains(out.String(), name+" is left out") {
			t.Errorf("nothing is said of %s", name)
		}
	}
	if strings.Contains(out.String(), "NaN") || strings.Contains(out.String(), "Inf") {
		t.Error("a figure is missing")
	}
}

func TestRunWithoutServer(t *testing.T) {
	for _, test := range []struct{ server, tmemd, want string }{
		{"no-such-server", "", "no server"},
		{serverTmemd, "/no/such/binary", "start tmemd"},
		{serverTmemd, "/bin/false", "it ended"},
	} {
		o := options{pages: 256, rounds: 1, cell: time.Millisecond, servers: []string{test.server}, tmemd: test.tmemd, folder: t.TempDir()}
		servers, err := findServers(t.Context(), &strings.Builder{}, o)
		if err == nil {
			err = new(measured).measureRounds(t.Context(), servers, false, sampled(t, fewPages), o)
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("server %s %s: error %v, want %q", test.server, test.tmemd, err, test.want)
		}
	}
}

func TestServeRefuses(t *testing.T) {
	for _, arguments := range [][]string{
		{"-device", "no-such-device", "-pages", "1"},
		{"-device", deviceMemory, "-pages", "1", "-socket", "/no/such/folder/socket"},
		{"-device", deviceTier, "-pages", "1", "-socket", "/no/such/folder/socket"},
	} {
		if err := serve(arguments); err == nil {
			t.Errorf("serve %q: no error", arguments)
		}
	}
}

func TestParseOptions(t *testing.T) {
	o, err := parseOptions([]string{"-pages", "512", "-cell", "2s", "-servers", "engine,tmemd"})
	if err != nil || o.pages != 512 || o.cell != 2*time.Second || fmt.Sprint(o.servers) != "[engine tmemd]" {
		t.Errorf("options %+v, error %v", o, err)
	}
	for _, bad := range []string{"-pages=1", "-rounds=0", "-cell=0s", "-cell=soon", "-colour"} {
		if _, err := parseOptions([]string{bad}); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestMeasureDevice(t *testing.T) {
	pages := sampled(t, fewPages)
	r, err := measureDevice(pages)
	if err != nil {
		t.Fatal(err)
	}
	if r.stored+r.refused != uint64(pages.Pages()) || r.stored < r.refused {
		t.Errorf("%d pages stored and %d refused, of %d", r.stored, r.refused, pages.Pages())
	}
	if r.out.allocationsRun != 0 || r.in.allocationsRun != 0 {
		t.Errorf("%v allocations for a page out, %v for one in", r.out.allocationsRun, r.in.allocationsRun)
	}
	if r.data == 0 || r.data > r.held || r.arena == 0 || r.pageMap == 0 || r.ratio() <= 0 {
		t.Errorf("memory does not add up: %+v", r)
	}
}
