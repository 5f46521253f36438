//go:build e2e

package vm

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestStandIn(t *testing.T) {
	series := os.Getenv("TMEMD_VM_KERNEL")
	if series == "" {
		series = "6.1"
	}
	port := freePort(t)
	args := []string{"-f", "-i", "127.0.0.1", "-p", fmt.Sprint(port), "--exportname", "swap"}
	if x := os.Getenv("STANDIN"); x != "" {
		args = append(args, "sh", "-c")
	} else {
		args = append(args, "--filter=stats", "memory", "512M", "statsfile=/tmp/vmx/stats")
	}
	server := exec.Command("nbdkit", args...)
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { server.Process.Signal(os.Interrupt); server.Wait() }()
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	t0 := time.Now()
	step := func(f string, a ...any) { t.Logf("%6.1fs "+f, append([]any{time.Since(t0).Seconds()}, a...)...) }
	k, err := FetchKernel(ctx, "../../.cache/vm", series)
	if err != nil {
		t.Fatal(err)
	}
	step("kernel %s %v", k.Package, k.Modules)
	ir, err := BuildInitramfs(ctx, k, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fi, _ := os.Stat(ir)
	step("initramfs %d", fi.Size())
	m, err := Start(ctx, Config{Kernel: k, Initramfs: ir, MemoryMiB: 128, DataMiB: 200, Workers: 4, Seed: 1, NBDPort: port, Export: "swap", NoProgress: 45 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	defer func() {
		if t.Failed() {
			t.Log(m.Console())
		}
	}()
	r, err := m.AwaitFilled(ctx)
	if err != nil {
		t.Fatal(err)
	}
	step("filled %+v", r)
	if x := os.Getenv("ACT"); x == "corrupt" {
		for i := range 40 {
			out, err := exec.Command("qemu-io", "-f", "raw", fmt.Sprintf("nbd://127.0.0.1:%d/swap", port), "-c", fmt.Sprintf("write -P 0x55 %dM 64k", 10+i*5)).CombinedOutput()
			if err != nil {
				t.Log(string(out))
			}
		}
		_, err := m.AwaitVerified(ctx, r, 1<<40)
		t.Fatal(err)
	} else if x == "stop" {
		server.Process.Signal(syscall.SIGSTOP)
		defer server.Process.Signal(syscall.SIGCONT)
		_, err := m.AwaitVerified(ctx, r, 1<<40)
		t.Fatal(err)
	} else if x == "kill" {
		server.Process.Signal(syscall.SIGKILL)
		_, err := m.AwaitVerified(ctx, r, 1<<40)
		t.Fatal(err)
	}
	for _, p := range []string{"one", "two"} {
		b, err := m.BeginPhase(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		e, err := m.AwaitVerified(ctx, b, 15000)
		if err != nil {
			t.Fatal(err)
		}
		step("phase %s: %+v", p, e.Counters.Sub(b.Counters))
	}
	r, err = m.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	step("stopped %+v", r)
	r, err = m.Swapoff(ctx)
	if err != nil {
		t.Fatal(err)
	}
	step("swapped off %+v", r)
	r, err = m.Detach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	step("detached")
	os.WriteFile("/tmp/vmx/dmesg-"+series, []byte(r.Log), 0o644)
	os.WriteFile("/tmp/vmx/console-"+series, []byte(m.Console()), 0o644)
	t.Log(LogTrouble(r.Log))
}
