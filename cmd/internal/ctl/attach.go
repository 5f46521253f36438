package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/attach"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/protect"
	"github.com/tmemd/tmemd/cmd/internal/systemd"
)

// attachFlags are the flags of tmemctl attach.
type attachFlags struct {
	export, server string
	connections    int
	priority       int
	noDiscard      bool
	force, noSwap  bool
	detach         bool
	timeout        time.Duration
	deadConn       time.Duration
	runDir         string
}

// agentRoom is what an agent has to spare.
var agentRoom = protect.Room{Heap: 8 << 20, Threads: 4}

func (t *tool) attach() *cobra.Command {
	var f attachFlags
	command := &cobra.Command{
		Use:   "attach [/dev/nbdN]",
		Short: "Swap to an export on this host, through restarts of its server",
		Long: "Swap to an export on this host: configure an NBD device, make swap of it if it is blank,\n" +
			"swap on, and stay to look after it. When the server goes away, requests wait and the\n" +
			"connections are made anew when it is back. SIGTERM or Ctrl-C swaps off and disconnects.\n\n" +
			"With --no-swap the export is a disk: it is attached in the same way, for you to mount, and\n" +
			"stays attached while it is mounted.\n\n" +
			"The export is one of the daemon on this host, or with --server of any NBD server.",
		Example: "  tmemctl attach --detach\n  tmemctl attach /dev/nbd0 --server tcp://10.0.0.1:10809 --export swap\n" +
			"  tmemctl attach /dev/nbd1 --export root --no-swap --detach && mount /dev/nbd1 /mnt",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes one device, not %d arguments", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			o, err := t.attachOptions(c.Context(), f, args)
			if err != nil {
				return err
			}
			if f.detach {
				return t.attachDetached()
			}
			return t.runAgent(c.Context(), o)
		},
	}
	flags := command.Flags()
	flags.StringVar(&f.export, "export", config.DefaultExport, "`name` of the export")
	flags.StringVar(&f.server, "server", "", "`address` of the server: unix:///PATH or tcp://HOST:PORT (default: the daemon on this host)")
	flags.IntVar(&f.connections, "connections", 0, "`number` of connections, up to 8 (default: one for each processor)")
	flags.IntVar(&f.priority, "priority", attach.DefaultPriority, "`priority` of the swap area, from 0 to 32767; the highest is used first")
	flags.BoolVar(&f.noDiscard, "no-discard", false, "do not tell the server which pages are not needed any more")
	flags.BoolVar(&f.force, "force", false, "make swap of an export that has other content")
	flags.BoolVar(&f.noSwap, "no-swap", false, "make no swap of it: the export is a disk, to be mounted")
	flags.BoolVar(&f.detach, "detach", false, "stay in the background, and log to the kernel's log")
	flags.DurationVar(&f.timeout, "timeout", attach.DefaultTimeout, "`age` of a request at which its connections are made anew")
	flags.DurationVar(&f.deadConn, "dead-conn-timeout", attach.DefaultDeadConnTimeout, "how `long` requests wait for a server that is gone before they fail")
	flags.StringVar(&f.runDir, "run-dir", attach.DefaultRunDir, "`folder` for records of what is attached")
	return command
}

func (t *tool) attachOptions(ctx context.Context, f attachFlags, args []string) (o attach.Options, err error) {
	o = attach.Options{
		Export: f.export, Connections: f.connections, Priority: f.priority, Discard: !f.noDiscard, Force: f.force, NoSwap: f.noSwap,
		Timeout: f.timeout, DeadConnTimeout: f.deadConn, RunDir: f.runDir,
		Log: slog.New(slog.NewTextHandler(t.log, nil)),
	}
	if len(args) == 1 {
		o.Device = args[0]
		if _, err := attach.ParseDevice(o.Device); err != nil {
			return o, err
		}
	}
	if f.server == "" {
		o.Address, err = t.localServer(ctx)
		return o, err
	}
	if strings.HasPrefix(f.server, "tls://") || strings.HasPrefix(f.server, "nbds") {
		return o, cli.Misuse("use unix:///PATH, or tcp://HOST:PORT in a network that you trust; a tunnel such as WireGuard protects it below TCP",
			"--server: the kernel's NBD client cannot speak TLS")
	}
	if o.Address, err = config.ParseAddress(f.server); err != nil {
		return o, cli.Misuse("write unix:///PATH or tcp://HOST:PORT", "--server: %v", err)
	}
	return o, nil
}

// localServer is where the daemon on this host serves. On the same host it has to
// be a Unix socket: the kernel drops packets of its emergency reserve at our end
// of a TCP connection.
func (t *tool) localServer(ctx context.Context) (config.Address, error) {
	client, err := t.client()
	if err != nil {
		return config.Address{}, err
	}
	defer client.Close()
	s, err := client.Status(ctx)
	if err != nil {
		return config.Address{}, err
	}
	for _, text := range s.Listen {
		if a, err := config.ParseAddress(text); err == nil && a.Network == "unix" {
			return a, nil
		}
	}
	return config.Address{}, cli.Failure("have it listen on unix:///PATH as well, or say --server tcp://HOST:PORT if it is another host's",
		"the daemon on this host serves no Unix socket")
}

// runAgent attaches and stays.
func (t *tool) runAgent(ctx context.Context, o attach.Options) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE) // a terminal that is closed takes no swap away
	// The agent has to work when nothing can be swapped in.
	if _, err := protect.Apply(protect.Auto, true, agentRoom, o.Log); err != nil {
		return err
	}
	o.Ready = func(r attach.Record) {
		doing, priority := swappingTo, fmt.Sprintf(", priority %d", r.Priority)
		if r.NoSwap {
			doing, priority = attachedAs, ""
		}
		fmt.Fprintf(t.out, "%s%s: export %s of %s, %s%s, %d connections\n",
			doing, r.Device, r.Server.Name, r.Address, cli.Bytes(r.Server.Size), priority, r.Connections)
		t.notify(o.Log, "READY=1\nSTATUS="+doing+"export "+r.Server.Name+" of "+r.Address.String())
		if os.Getenv(detachedVariable) != "" {
			leaveTerminal()
		}
	}
	a, err := attach.Attach(ctx, o)
	if err != nil {
		return err
	}
	// Not the command's context, which ends with the first signal.
	listening, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	dead, err := attach.Listen(listening, a.Index())
	if err != nil {
		o.Log.Warn("the kernel's word about dead connections cannot be heard; they are noticed a second later", "error", err)
	}
	return a.Run(dead, signals)
}

func (t *tool) notify(log *slog.Logger, message string) {
	if err := systemd.Notify(os.Getenv("NOTIFY_SOCKET"), message); err != nil {
		log.Warn("cannot tell the service manager", "error", err)
	}
}

// attachDetached starts this command again, without --detach, in a session of its
// own, and waits until it says that the device is swap, or why not.
func (t *tool) attachDetached() error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	var args []string
	for _, arg := range os.Args {
		if arg != "--detach" && arg != "--detach=true" {
			args = append(args, arg)
		}
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	defer read.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return errors.Join(fmt.Errorf("start the agent: %w", err), write.Close())
	}
	defer null.Close()
	agent, err := os.StartProcess(program, args, &os.ProcAttr{
		Env: append(os.Environ(), detachedVariable+"=1"), Files: []*os.File{null, write, write}, Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err := errors.Join(err, write.Close()); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	// The agent closes its end when it is ready, and the system does if it ends.
	told, err := io.ReadAll(read)
	if err != nil {
		return fmt.Errorf("listen to the agent: %w", err)
	}
	text := strings.TrimSpace(string(told))
	if ready := lastLine(text); strings.HasPrefix(ready, swappingTo) || strings.HasPrefix(ready, attachedAs) {
		_, err := fmt.Fprintln(t.out, text)
		return errors.Join(err, agent.Release())
	}
	if _, err := agent.Wait(); err != nil {
		return fmt.Errorf("wait for the agent: %w", err)
	}
	return relay(text)
}

// How an agent says that it is ready.
const (
	swappingTo = "swapping to "
	attachedAs = "attached "
)

// detachedVariable tells an agent that it was started by --detach.
const detachedVariable = "TMEMCTL_DETACHED"

// leaveTerminal lets go of whoever started the agent: what it has to say from
// here on goes to the kernel's log, among the NBD driver's own messages.
func leaveTerminal() {
	log, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		log, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	if err != nil {
		return // the pipe has no reader any more, and SIGPIPE is ignored
	}
	defer log.Close()
	for _, fd := range []int{1, 2} {
		_ = unix.Dup3(int(log.Fd()), fd, 0) // both are there
	}
}

func lastLine(text string) string { return text[strings.LastIndexByte(text, '\n')+1:] }

// relay makes one error of what an agent that failed printed: its error and hint.
func relay(text string) error {
	problem, hint, found := strings.Cut(text, "\nhint: ")
	if at := strings.LastIndex(problem, "error: "); at >= 0 {
		problem = problem[at+len("error: "):]
	}
	if !found && problem == "" {
		problem = "the agent ended without a word; see the kernel's log (dmesg)"
	}
	return cli.Failure(hint, "%s", problem)
}

func (t *tool) detach() *cobra.Command {
	var runDir string
	command := &cobra.Command{
		Use:   "detach /dev/nbdN",
		Short: "Swap off a device and disconnect it",
		Long: "Swap off a device, which reads back all that is on it, and disconnect it. The agent that\n" +
			"tmemctl attach left does it, and ends. A disk that is mounted stays attached.",
		Args: oneArgument("device"),
		RunE: func(c *cobra.Command, args []string) error {
			p := &detachProgress{out: t.out, json: t.json, now: time.Now}
			if err := attach.Detach(c.Context(), attach.DetachOptions{Device: args[0], RunDir: runDir, Progress: p.report}); err != nil {
				return err
			}
			return t.show(struct {
				Device string `json:"device"`
				Done   bool   `json:"done"`
			}{args[0], true}, func(w io.Writer) { fmt.Fprintf(w, "detached %s\n", args[0]) })
		},
	}
	command.Flags().StringVar(&runDir, "run-dir", attach.DefaultRunDir, "`folder` for records of what is attached")
	return command
}

// detachProgress prints how much is still to be read back, now and then.
type detachProgress struct {
	out   io.Writer
	json  bool
	now   func() time.Time
	first int64     // bytes in use when it began
	began time.Time // zero before the first report
	told  time.Time
}

func (p *detachProgress) report(left int64) {
	now := p.now()
	if p.began.IsZero() {
		p.first, p.began = left, now
	}
	if p.json || now.Sub(p.told) < lineEvery {
		return
	}
	p.told = now
	line := fmt.Sprintf("swapping off: %s left", cli.Bytes(uint64(left)))
	if done, passed := p.first-left, now.Sub(p.began); done > 0 && passed > 0 {
		rate := float64(done) / passed.Seconds()
		line += fmt.Sprintf(", %s/s, about %s", cli.Bytes(uint64(rate)), time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	fmt.Fprintln(p.out, line)
}
