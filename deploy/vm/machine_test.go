package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/deploy/vm/orders"
)

// fakeMode makes the test binary stand in for QEMU.
const fakeMode = "TMEMD_VM_TEST_FAKE_QEMU"

func TestMain(m *testing.M) {
	if mode := os.Getenv(fakeMode); mode != "" {
		os.Exit(fakeQEMU(mode))
	}
	goleak.VerifyTestMain(m)
}

// fakeQEMU plays a machine on the sockets that Start hands over, and returns QEMU's exit status.
func fakeQEMU(mode string) int {
	console, line, monitor := os.NewFile(3, "console"), os.NewFile(4, "orders"), os.NewFile(5, "monitor")
	fmt.Fprintf(console, "booting with %d arguments\r\n", len(os.Args)-1)
	// A kernel boots for seconds before it reports; the two lines are read by
	// goroutines that know nothing of each other.
	time.Sleep(200 * time.Millisecond)
	var counters orders.Counters
	phase := ""
	report := func(event, detail string) {
		counters.Verified += 100
		_ = orders.Write(line, orders.Report{Event: event, Phase: phase, Counters: counters, Detail: detail, Log: "kernel log"})
	}
	report(orders.Filled, "")
	switch mode {
	case "crash":
		fmt.Fprint(os.Stderr, "cannot allocate memory\n")
		return 3
	case "power-off":
		return 0
	case "mismatch":
		report(orders.Mismatch, "page 7 version 2: 3 bytes differ")
	case "garbage":
		fmt.Fprintln(line, "\x00\x00 tmemd")
	case "trouble":
		fmt.Fprint(console, "[   50.940157] Read-error on swap-device (43:0:16288)\r\n")
	case "hang":
		return hang(console, monitor)
	}
	lines := bufio.NewScanner(line)
	for lines.Scan() {
		order, err := orders.ParseOrder(lines.Bytes())
		if err != nil {
			return 4
		}
		switch order.Do {
		case orders.Phase:
			phase = order.Phase
			report(orders.PhaseBegan, "")
			for range 5 {
				report(orders.Progress, "")
			}
		case orders.Stop:
			report(map[bool]string{true: orders.SwappedOff, false: orders.Stopped}[mode == "out-of-turn"], "")
		case orders.Swapoff:
			report(orders.SwappedOff, "")
		case orders.Detach:
			report(orders.Detached, "")
			return 0
		}
	}
	return 0
}

// hang answers nothing but SysRq: a break, by way of the monitor, and then a letter. It notes what comes in which order.
func hang(console, monitor *os.File) int {
	commands := bufio.NewScanner(monitor)
	key := make([]byte, 1)
	for commands.Scan() {
		if _, err := console.Read(key); err != nil {
			return 0
		}
		fmt.Fprintf(console, "<%s, then %s>\r\n", commands.Text(), key)
	}
	return 0
}

// startFake starts a machine whose QEMU is this test binary.
func startFake(t *testing.T, mode string) *Machine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nGORACE=atexit_sleep_ms=0 %s=%s exec %s \"$@\"\n", fakeMode, mode, self)
	if err := os.WriteFile(filepath.Join(bin, "qemu-system-x86_64"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	patience := time.Minute
	if mode == "hang" {
		patience = 200 * time.Millisecond
	}
	m, err := Start(t.Context(), Config{
		Kernel: &Kernel{Image: "vmlinuz"}, Initramfs: "initramfs", MemoryMiB: 128, DataMiB: 200, Workers: 4, Export: "swap",
		NBDPort: 10809, NoProgress: patience, pace: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestMachineGoesThroughItsLife(t *testing.T) {
	m := startFake(t, "steady")
	ctx := t.Context()
	if _, err := m.AwaitFilled(ctx); err != nil {
		t.Fatal(err)
	}
	began, err := m.BeginPhase(ctx, "one")
	if err != nil || began.Phase != "one" {
		t.Fatalf("BeginPhase = %+v, %v", began, err)
	}
	last, err := m.AwaitVerified(ctx, began, 500)
	if err != nil || last.Counters.Sub(began.Counters).Verified < 500 {
		t.Fatalf("AwaitVerified = %+v, %v", last, err)
	}
	if r, err := m.Stop(ctx); err != nil || r.Event != orders.Stopped {
		t.Fatalf("Stop = %+v, %v", r, err)
	}
	if r, err := m.Swapoff(ctx); err != nil || r.Event != orders.SwappedOff {
		t.Fatalf("Swapoff = %+v, %v", r, err)
	}
	r, err := m.Detach(ctx)
	if err != nil || r.Log != "kernel log" {
		t.Fatalf("Detach = %+v, %v", r, err)
	}
	if !strings.HasPrefix(m.Console(), "booting with ") {
		t.Errorf("console: %q", m.Console())
	}
}

// Each way in which a run can fail ends it, with its cause and the console's end in the error (V1, V2).
func TestMachineFailures(t *testing.T) {
	tests := []struct {
		mode string
		want []string // parts of the error of waiting for progress
	}{
		{"mismatch", []string{"the guest reports mismatch", "page 7 version 2: 3 bytes differ"}},
		{"garbage", []string{"parse report"}},
		{"crash", []string{"qemu ended: exit status 3", "cannot allocate memory"}},
		{"power-off", []string{"the machine was powered off"}},
		{"trouble", []string{"trouble in the guest's kernel", "Read-error on swap-device"}},
		{"hang", []string{"no progress in the guest for", "<chardev-send-break console, then 7>\n<chardev-send-break console, then w>"}},
	}
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			m := startFake(t, test.mode)
			_, err := m.AwaitVerified(t.Context(), orders.Report{}, 1<<40)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range append(test.want, "last report:", "booting with ") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q:\n%v", part, err)
				}
			}
			// Orders to a machine that ended fail for the same cause, at once.
			if _, err := m.AwaitFilled(t.Context()); err != nil {
				t.Errorf("its first report: %v", err)
			}
			if _, err := m.BeginPhase(t.Context(), "late"); err == nil || !strings.Contains(err.Error(), test.want[0]) {
				t.Errorf("a late order: %v", err)
			}
		})
	}
}

func TestMachineRefusesAnAnswerToSomethingElse(t *testing.T) {
	m := startFake(t, "out-of-turn")
	if _, err := m.AwaitFilled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), `answered "swapped off": expected "stopped"`) {
		t.Errorf("got %v", err)
	}
}

// A caller that gives up gets its own cause; the machine goes on until Close.
func TestMachineWaitsNoLongerThanItsCaller(t *testing.T) {
	m := startFake(t, "steady")
	if _, err := m.AwaitFilled(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("out of patience"))
	if _, err := m.AwaitVerified(ctx, orders.Report{}, 1<<40); err == nil || !strings.Contains(err.Error(), "out of patience") {
		t.Errorf("AwaitVerified: %v", err)
	}
	if _, err := m.AwaitFilled(ctx); err == nil || !strings.Contains(err.Error(), "out of patience") {
		t.Errorf("AwaitFilled: %v", err)
	}
}

func TestStartWithoutQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := exec.LookPath("/usr/sbin/qemu-system-x86_64"); err == nil {
		t.Fatal("this machine has QEMU in an odd place")
	}
	m, err := Start(t.Context(), Config{Kernel: &Kernel{}})
	if missing, ok := errors.AsType[*MissingToolError](err); !ok || missing.Package != "qemu-system-x86" {
		t.Errorf("got %v, %v", m, err)
	}
}

// What the guest is told is on the kernel's command line.
func TestMachineArguments(t *testing.T) {
	m := &Machine{config: Config{
		Kernel: &Kernel{Image: "/k/vmlinuz"}, Initramfs: "/k/initramfs", MemoryMiB: 128, DataMiB: 176, Workers: 4, Seed: 9,
		NBDPort: 10809, Export: "swap", SwapDisk: []string{"-drive", "file=nbd+unix:///swap"},
	}}
	line := " " + strings.Join(m.arguments(), " ") + " "
	for _, part := range []string{
		" -accel tcg,", " -smp 2 ", " -m 128 ", " -drive file=nbd+unix:///swap ", " -no-reboot ", " -kernel /k/vmlinuz ", " -initrd /k/initramfs ",
		" nbd_port=10809 ", " nbd_export=swap ", " data_mib=176 ", " workers=4 ", " seed=9 ", " min_free_kib=13107 ",
		"fd=3 -serial chardev:console ", "fd=4 -serial chardev:orders ",
	} {
		if !strings.Contains(line, part) {
			t.Errorf("%q is not in %s", part, line)
		}
	}
	for _, name := range []string{"nbd_port", "nbd_export", "data_mib", "workers", "seed", "min_free_kib"} {
		if !strings.Contains(string(initScript), "$"+name) {
			t.Errorf("the init script does not use $%s", name)
		}
	}
}
