package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestParseMachineTime(t *testing.T) {
	m, err := parseMachineTime("cpu  100 2 30 4000 50 6 7 80 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
	want := machineTime{busy: 145 * tick, stolen: 80 * tick, total: 4275 * tick}
	if err != nil || m != want {
		t.Errorf("%v, error %v, want %v", m, err, want)
	}
	for _, bad := range []string{"", "cpu", "cpu 1 2 3 4 5 6 7", "cpu 1 2 3 4 5 6 7 x", "cpu0 1 2 3 4 5 6 7 8"} {
		if m, err := parseMachineTime(bad); err == nil {
			t.Errorf("%q: %v, no error", bad, m)
		}
	}
}

func FuzzParseMachineTime(f *testing.F) {
	f.Add("cpu  100 2 30 4000 50 6 7 80 9 10\n")
	f.Add("cpu -1 99999999999999999999 1 1 1 1 1 1")
	f.Fuzz(func(t *testing.T, stat string) {
		if _, err := parseMachineTime(stat); err == nil && len(stat) < len("cpu 1 2 3 4 5 6 7 8") {
			t.Errorf("%q was understood", stat)
		}
	})
}

func TestOwnProcess(t *testing.T) {
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
	}
	threads, err := processorTime(os.Getpid())
	if err != nil || threads <= 0 {
		t.Errorf("processor time of the threads %v, error %v", threads, err)
	}
	if own, err := ownProcessorTime(); err != nil || own <= 0 {
		t.Errorf("processor time %v, error %v", own, err)
	}
	if resident, err := residentBytes(os.Getpid()); err != nil || resident < 1<<20 {
		t.Errorf("%d bytes resident, error %v", resident, err)
	}
	const nobody = 1 << 22 // the kernel numbers processes below it
	if _, err := processorTime(nobody); err == nil {
		t.Error("processor time of no process")
	}
	if _, err := residentBytes(nobody); err == nil {
		t.Error("memory of no process")
	}
	if err := awaitIdle(t.Context(), nobody); err == nil {
		t.Error("no process was waited for")
	}
	l, err := startLoad(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if others, stolen, err := l.stop(); err != nil || others < 0 || others > 1.1 || stolen < 0 {
		t.Errorf("load %v, stolen %v, error %v", others, stolen, err)
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v", test.values, got)
		}
	}
}

// TestAwaitIdle has a process that is busy until it is told to end.
func TestAwaitIdle(t *testing.T) {
	busy := exec.Command("sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := awaitIdle(ctx, busy.Process.Pid); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a busy process counts as idle: %v", err)
	}
	_ = busy.Process.Signal(syscall.SIGSTOP)
	if err := awaitIdle(t.Context(), busy.Process.Pid); err != nil {
		t.Error(err)
	}
	_ = busy.Process.Kill()
	_ = busy.Wait() // it was killed
}
