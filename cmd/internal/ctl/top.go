package ctl

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/view"
)

// leastInterval keeps a daemon from being asked for its books all the time.
const leastInterval = 100 * time.Millisecond

func (t *tool) top() *cobra.Command {
	var once bool
	var interval time.Duration
	command := &cobra.Command{
		Use:   "top",
		Short: "Watch what clients, backends and storage do",
		Long: "Watch what clients, backends and storage do, and did a moment ago.\n\n" +
			"Keys: q quits, p pauses, s sorts exports by something else, ? explains. A daemon that goes\n" +
			"away is waited for. Where there is no terminal, or with --once, it prints one frame; with\n" +
			"--json, what status --json prints.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if interval < leastInterval {
				return cli.Misuse("write 100ms or more", "--interval: %s is too short", interval)
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				ask := func(ctx context.Context) (view.Sample, error) { return sample(ctx, client) }
				in, out, isTerminal := terminalOf(os.Stdin, t.out)
				switch {
				case t.json:
					s, err := client.Status(ctx)
					if err != nil {
						return err
					}
					return t.show(s, nil)
				case once || !isTerminal:
					return topOnce(ctx, t.out, ask, interval)
				}
				return watch(ctx, in, out, ask, interval)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	command.Flags().BoolVar(&once, "once", false, "print one frame, of two samples")
	command.Flags().DurationVar(&interval, "interval", 2*time.Second, "`time` between samples")
	return command
}

// terminalOf says whether somebody sits before both ends.
func terminalOf(in *os.File, w io.Writer) (*os.File, *os.File, bool) {
	out, ok := w.(*os.File)
	return in, out, ok && term.IsTerminal(int(out.Fd())) && term.IsTerminal(int(in.Fd())) && os.Getenv("TERM") != "dumb"
}

// sample asks the daemon how it is. Who lends memory is asked only if somebody does.
func sample(ctx context.Context, client *admin.Client) (view.Sample, error) {
	s, err := client.Status(ctx)
	if err != nil {
		return view.Sample{}, err
	}
	taken := view.Sample{At: time.Now(), Status: s}
	if slices.ContainsFunc(s.Backends, func(b admin.Backend) bool { return b.Kind == "ramster" }) {
		if taken.Donors, err = client.Donors(ctx); err != nil {
			return view.Sample{}, err
		}
	}
	return taken, nil
}

// topOnce prints a frame.
func topOnce(ctx context.Context, out io.Writer, ask func(context.Context) (view.Sample, error), interval time.Duration) error {
	shown := view.Top{Interval: interval, Order: view.Orders[0]}
	for i := range 2 {
		if i > 0 {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(interval):
			}
		}
		s, err := ask(ctx)
		if err != nil {
			return err
		}
		shown.History.Add(s)
		shown.Now = s.At
	}
	screen := view.ScreenOf(out, os.Getenv)
	screen.Height = 0 // it may be longer: nothing is drawn over
	_, err := io.WriteString(out, view.Frame(screen, shown)+"\n")
	return err
}

// watch draws frames until somebody quits, or a signal comes. The terminal is as it was
// afterwards, whatever happened.
func watch(ctx context.Context, in, out *os.File, ask func(context.Context) (view.Sample, error), interval time.Duration) error {
	// A terminal that is closed, and kill, end it in order.
	ctx, stop := signal.NotifyContext(ctx, unix.SIGHUP, unix.SIGQUIT)
	defer stop()
	ctx, cancel := context.WithCancel(ctx) // and requests under way with it
	defer cancel()
	m := &watcher{ctx: ctx, ask: ask, screen: view.ScreenOf(out, os.Getenv)}
	m.shown = view.Top{Now: time.Now(), Interval: interval, Order: view.Orders[0]}
	program := tea.NewProgram(m, tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler())
	// Not tea.WithContext: that ends the program without waiting for its reader.
	defer context.AfterFunc(ctx, program.Quit)()
	_, err := program.Run()
	if errors.Is(err, tea.ErrProgramPanic) {
		return broken("see above", "")
	}
	return errors.Join(err, m.broken)
}

// broken is the error of a tmemctl that has a fault.
func broken(what any, trace string) error {
	e := cli.Failure("please report it; the daemon is not concerned", "tmemctl top broke: %v", what)
	e.Excerpt = trace
	return e
}

// watcher is the state of tmemctl top, as the library for terminals wants it.
type watcher struct {
	ctx    context.Context
	ask    func(context.Context) (view.Sample, error)
	screen view.Screen
	shown  view.Top
	broken error // what ended it, or nil
}

// answered is what the daemon said.
type answered struct {
	sample view.Sample
	err    error
}

// due says that it is time to ask again.
type due struct{}

// Init implements tea.Model.
func (m *watcher) Init() tea.Cmd { return m.inquire }

// inquire asks the daemon. A panic ends in order what draws: the library's own way out
// does not wait for who reads keys.
func (m *watcher) inquire() (message tea.Msg) {
	defer func() {
		if what := recover(); what != nil {
			message = broken(what, string(debug.Stack()))
		}
	}()
	s, err := m.ask(m.ctx)
	return answered{s, err}
}

// Update implements tea.Model.
func (m *watcher) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	switch message := message.(type) {
	case tea.WindowSizeMsg:
		m.screen.Width, m.screen.Height = message.Width, message.Height
	case tea.KeyPressMsg:
		return m, m.key(message.String())
	case error:
		m.broken = message
		return m, tea.Quit
	case due:
		return m, m.inquire
	case answered:
		if !m.shown.Paused {
			m.take(message)
		}
		return m, tea.Tick(m.shown.Interval, func(time.Time) tea.Msg { return due{} })
	}
	return m, nil
}

func (m *watcher) take(a answered) {
	m.shown.Now = time.Now()
	if a.err != nil {
		m.shown.Gone = a.err.Error()
		return
	}
	m.shown.Gone = ""
	m.shown.History.Add(a.sample)
}

func (m *watcher) key(key string) tea.Cmd {
	switch key {
	case "q", "esc", "ctrl+c", "ctrl+d":
		if m.shown.Help && key == "esc" {
			m.shown.Help = false
			return nil
		}
		return tea.Quit
	case "ctrl+z":
		return tea.Suspend
	case "ctrl+l":
		return tea.ClearScreen
	case "p", "space":
		m.shown.Paused = !m.shown.Paused
	case "s":
		next := slices.Index(view.Orders, m.shown.Order) + 1
		m.shown.Order = view.Orders[next%len(view.Orders)]
	case "?", "h":
		m.shown.Help = !m.shown.Help
	}
	return nil
}

// View implements tea.Model.
func (m *watcher) View() tea.View {
	v := tea.NewView(view.Frame(m.screen, m.shown))
	v.AltScreen = true
	return v
}
