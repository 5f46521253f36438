package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tmemd/tmemd/deploy/vm/orders"
)

// Config is what a machine is made of and what its guest program does.
type Config struct {
	Kernel    *Kernel
	Initramfs string // path of a file made by BuildInitramfs
	MemoryMiB int    // RAM of the machine
	DataMiB   int    // memory that the guest program keeps in use; more than the RAM, less than the swap
	Workers   int    // threads of the guest program
	Seed      uint64 // of the guest's content and choices

	NBDPort int    // TCP port of the NBD server, on this machine's 127.0.0.1; of no use with OwnHost
	Export  string // the export to swap to

	Attach Attach // how it is attached
	Disk   string // path of a file that is the guest's disk, its tmemd's storage; for OwnHost

	// SwapDisk are QEMU's arguments for the disk that the guest swaps to; for AttachDisk.
	SwapDisk   []string
	Processors int // 0 means 2

	// Expected are lines of the kernel's log that tell of trouble which the test makes; nil if it makes none.
	Expected *regexp.Regexp

	// NoProgress is how long the guest's counters may stand still before the machine is ended as stuck.
	NoProgress time.Duration

	pace time.Duration // between two looks of the watchdog, and two of its steps; 0 means a second
}

// Attach says how a machine comes to its swap device.
type Attach string

// The ways to attach.
const (
	AttachClient      Attach = ""          // stock nbd-client, mkswap and swapon
	AttachAgent       Attach = "agent"     // tmemctl attach, to a server outside
	AttachOwnHost     Attach = "own"       // tmemctl attach, to a tmemd inside that protects itself
	AttachUnprotected Attach = "own-naked" // the same without protection
	AttachDisk        Attach = "disk"      // not at all: QEMU makes a virtio disk of it
)

// minFreePercent is vm.min_free_kbytes as a share of the RAM. With the default, a 6.12 kernel that swaps over TCP comes to a
// stop in its network driver; with a tenth it does not.
const minFreePercent = 10

// Machine is a running virtual machine with its guest program. Its methods may be called by one goroutine at a time, but for
// Console.
type Machine struct {
	config  Config             // immutable
	console *console           // the end of what came out of serial; safe for use by several goroutines
	serial  net.Conn           // the host's end of the first serial port, the kernel's console
	orders  net.Conn           // the host's end of the second serial port
	monitor net.Conn           // the host's end of QEMU's monitor
	answers chan orders.Report // answers to orders, in order; closed when the orders line ends

	ctx     context.Context         // ends when the machine ends; its cause says why
	cancel  context.CancelCauseFunc // ends the machine; the first cause stays
	readers sync.WaitGroup          // the goroutines that read from QEMU
	tasks   sync.WaitGroup          // all others

	mu     sync.Mutex
	latest orders.Report // guarded by mu
	active time.Time     // when latest last showed progress; guarded by mu
}

// errPoweredOff is the cause of an ordinary end.
var errPoweredOff = errors.New("the machine was powered off")

// Start boots a machine. The caller must Close it. When ctx ends the machine is ended.
func Start(ctx context.Context, config Config) (*Machine, error) {
	qemu, err := findTool("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	config.pace = cmp.Or(config.pace, time.Second)
	var ours []net.Conn
	var theirs []*os.File
	defer func() {
		for _, file := range theirs {
			file.Close() // QEMU has its own by now
		}
	}()
	for _, name := range []string{"console", "orders", "monitor"} {
		mine, other, err := socketPair(name)
		if err != nil {
			return nil, errors.Join(err, closeAll(ours))
		}
		ours, theirs = append(ours, mine), append(theirs, other)
	}
	m := &Machine{
		config: config, console: &console{limit: 256 << 10}, serial: ours[0], orders: ours[1], monitor: ours[2],
		answers: make(chan orders.Report, 8), active: time.Now(),
	}
	m.ctx, m.cancel = context.WithCancelCause(ctx)
	m.readers.Go(m.readConsole)
	m.readers.Go(m.readReports)
	started := make(chan error)
	m.tasks.Go(func() { m.supervise(qemu, theirs, started) })
	if err := <-started; err != nil {
		m.cancel(err)
		err = errors.Join(fmt.Errorf("start qemu: %w", err), closeAll(ours))
		m.wait()
		return nil, err
	}
	m.tasks.Go(m.watch)
	m.tasks.Go(func() { // readers end with their sockets
		<-m.ctx.Done()
		closeAll(ours)
	})
	return m, nil
}

func (m *Machine) wait() {
	m.tasks.Wait()
	m.readers.Wait()
}

// supervise runs QEMU until it ends or the machine's context does.
//
// The goroutine keeps its thread: PDEATHSIG, which takes QEMU down with a test that was killed, counts the thread that started it.
func (m *Machine) supervise(qemu string, files []*os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command := exec.CommandContext(m.ctx, qemu, m.arguments()...)
	command.ExtraFiles, command.Stdout, command.Stderr = files, m.console, m.console
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := command.Start()
	started <- err
	if err != nil {
		return
	}
	err = command.Wait()
	m.readers.Wait() // what it said last is part of the failure; its ends of the sockets are closed now
	if err != nil {
		m.cancel(fmt.Errorf("qemu ended: %w", err))
		return
	}
	m.cancel(errPoweredOff)
}

// arguments is QEMU's command line. Files 3, 4 and 5 are the sockets of Start.
func (m *Machine) arguments() []string {
	c := m.config
	parameters := []string{
		"console=ttyS0", "quiet", "sysrq_always_enabled", "oops=panic", "panic=-1",
		// What makes emulation quick, or steady on a busy test machine.
		"mitigations=off", "nokaslr", "no_timer_check", "tsc=unstable", "clocksource=hpet", "random.trust_cpu=on",
		// For the init script.
		fmt.Sprintf("nbd_port=%d", c.NBDPort), "nbd_export=" + c.Export,
		fmt.Sprintf("data_mib=%d", c.DataMiB), fmt.Sprintf("workers=%d", c.Workers), fmt.Sprintf("seed=%d", c.Seed),
		fmt.Sprintf("min_free_kib=%d", c.MemoryMiB*1024*minFreePercent/100), "attach=" + string(c.Attach),
	}
	arguments := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", "tcg,thread=multi,tb-size=128", "-smp", fmt.Sprint(cmp.Or(c.Processors, 2)), "-m", fmt.Sprint(c.MemoryMiB),
		"-kernel", c.Kernel.Image, "-initrd", c.Initramfs, "-append", strings.Join(parameters, " "),
		"-chardev", "socket,id=console,fd=3", "-serial", "chardev:console",
		"-chardev", "socket,id=orders,fd=4", "-serial", "chardev:orders",
		"-chardev", "socket,id=monitor,fd=5", "-mon", "chardev=monitor,mode=readline",
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
	}
	if c.Disk != "" {
		arguments = append(arguments, "-drive", "format=raw,if=virtio,cache=unsafe,file="+c.Disk)
	}
	return append(arguments, c.SwapDisk...)
}

// BeginPhase gives the guest's next reports a name. Its answer holds the counters at the beginning.
func (m *Machine) BeginPhase(ctx context.Context, name string) (orders.Report, error) {
	return m.do(ctx, orders.Order{Do: orders.Phase, Phase: name}, orders.PhaseBegan)
}

// AwaitVerified waits until the guest has verified so many pages since an earlier report, and returns the report
// that says so.
func (m *Machine) AwaitVerified(ctx context.Context, since orders.Report, pages int64) (orders.Report, error) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		if latest := m.Latest(); latest.Counters.Sub(since.Counters).Verified >= pages {
			return latest, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return orders.Report{}, fmt.Errorf("wait for %d verified pages: %w", pages, context.Cause(ctx))
		case <-m.ctx.Done():
			return orders.Report{}, m.failure()
		}
	}
}

// AwaitFilled waits for boot, swapon and the first writing of all pages.
func (m *Machine) AwaitFilled(ctx context.Context) (orders.Report, error) {
	return m.answer(ctx, orders.Filled)
}

// Stop ends the guest's rounds; it verifies every page once more and drops most of them.
func (m *Machine) Stop(ctx context.Context) (orders.Report, error) {
	return m.do(ctx, orders.Order{Do: orders.Stop}, orders.Stopped)
}

// Swapoff has the guest take its swap away, and verify what was swapped out until then.
func (m *Machine) Swapoff(ctx context.Context) (orders.Report, error) {
	return m.do(ctx, orders.Order{Do: orders.Swapoff}, orders.SwappedOff)
}

// Detach has the guest disconnect the device, and waits until the machine has powered itself off. The report holds
// the kernel's log.
func (m *Machine) Detach(ctx context.Context) (orders.Report, error) {
	report, err := m.do(ctx, orders.Order{Do: orders.Detach}, orders.Detached)
	if err != nil {
		return report, err
	}
	select {
	case <-m.ctx.Done():
	case <-ctx.Done():
		return report, fmt.Errorf("wait for power-off: %w", context.Cause(ctx))
	}
	if cause := context.Cause(m.ctx); !errors.Is(cause, errPoweredOff) {
		return report, m.failure()
	}
	return report, nil
}

// Run has the guest run a shell command while its rounds go on, and returns what it printed.
func (m *Machine) Run(ctx context.Context, command string) (string, error) {
	report, err := m.do(ctx, orders.Order{Do: orders.Run, Command: command}, orders.Ran)
	return report.Detail, err
}

// Latest returns the guest's last report.
func (m *Machine) Latest() orders.Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.latest
}

// Console returns the end of what the machine printed.
func (m *Machine) Console() string { return m.console.String() }

// Close ends the machine, if it still runs, and waits until nothing of it is left.
func (m *Machine) Close() {
	m.cancel(errors.New("the machine was closed"))
	m.wait()
}

func (m *Machine) do(ctx context.Context, order orders.Order, answer string) (orders.Report, error) {
	if err := orders.Write(m.orders, order); err != nil {
		<-m.ctx.Done() // the line is QEMU's
		return orders.Report{}, errors.Join(err, m.failure())
	}
	return m.answer(ctx, answer)
}

func (m *Machine) answer(ctx context.Context, event string) (orders.Report, error) {
	select {
	case report, ok := <-m.answers:
		if !ok {
			<-m.ctx.Done()
			return orders.Report{}, m.failure()
		}
		if report.Event != event {
			return orders.Report{}, fmt.Errorf("the guest answered %q: expected %q", report.Event, event)
		}
		return report, nil
	case <-ctx.Done():
		return orders.Report{}, fmt.Errorf("wait for %q: %w", event, context.Cause(ctx))
	}
}

// failure is why the machine ended, with what it printed last.
func (m *Machine) failure() error {
	return fmt.Errorf("%w\nlast report: %+v\nthe console's end:\n%s", context.Cause(m.ctx), m.Latest(), m.Console())
}

// socketPair returns the host's end of a stream as a connection and QEMU's as a file.
func socketPair(name string) (ours net.Conn, theirs *os.File, err error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the %s socket: %w", name, err)
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), name), os.NewFile(uintptr(pair[1]), name)
	defer mine.Close() // FileConn has a duplicate
	ours, err = net.FileConn(mine)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make the %s socket: %w", name, err), theirs.Close())
	}
	return ours, theirs, nil
}

func closeAll(connections []net.Conn) error {
	var all error
	for _, connection := range connections {
		all = errors.Join(all, connection.Close())
	}
	return all
}
