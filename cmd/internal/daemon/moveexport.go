package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/mover"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/tier"
)

// DefaultPause is the longest pause of a move, unless the operator says otherwise.
const DefaultPause = 200 * time.Millisecond

// exportMove is one move of an export to another daemon. It commits with state.json: from
// then on the export is there, whatever becomes of this process; before, it is here.
//
//	step                                     a process that dies, or a target that is lost, then
//	pages are copied, clients are served     is here
//	requests are held back, the rest copied  is here
//	the target answers FLUSH                 is here
//	state.json says where it moved           is there
//	clients are cut and refused              is there
//	pages and storage are given up           is there
type exportMove struct {
	d       *Daemon
	e       *export
	to      config.Address
	as      string
	log     *tier.Changes
	server  string // what the export here calls itself
	moved   state.Export
	refused time.Time // when nobody could use it here any more
}

// MoveExport implements admin.Service.
func (s service) MoveExport(ctx context.Context, name string, r admin.MoveExportRequest, report func(admin.ExportMove)) (admin.ExportMove, error) {
	m := &exportMove{d: s.d, as: r.As}
	if m.as == "" {
		m.as = name
	}
	var err error
	if m.to, err = config.ParseAddress(r.To); err != nil {
		return admin.ExportMove{}, &admin.Error{Status: http.StatusBadRequest, Message: "to: " + err.Error(), Hint: "write unix:///PATH or tcp://HOST:PORT of the other tmemd"}
	}
	maxPause := DefaultPause
	if r.MaxPauseMS != 0 {
		maxPause = time.Duration(r.MaxPauseMS) * time.Millisecond
	}
	if maxPause < time.Millisecond || maxPause > time.Minute {
		return admin.ExportMove{}, &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("max_pause: %v is too short or too long", maxPause), Hint: "between 1ms and 1m"}
	}
	ctx, end, err := m.begin(ctx, name)
	if err != nil {
		return admin.ExportMove{}, err
	}
	defer end()
	event := func(p mover.Progress) admin.ExportMove {
		return admin.ExportMove{Export: name, To: m.address(), Round: p.Round, Sent: p.Sent, Left: p.Left, PagesPerSecond: p.Rate}
	}
	result, err := mover.Run(ctx, m.log, mover.Config{
		Size: m.e.size(), MaxPause: maxPause, Connect: m.connect, Check: m.check, Enter: m.enter, Commit: m.commit,
		Report: func(p mover.Progress) { report(event(p)) },
	})
	if err != nil {
		m.log.Stop()
		s.d.transfers.failed.Add(1)
		s.d.log.Warn("export is not moved", "export", name, "to", m.address(), "rounds", result.Round, "error", err)
		return admin.ExportMove{}, moveExportError(name, err)
	}
	done := event(result.Progress)
	done.PauseMS = float64(m.refused.Sub(result.Held).Microseconds()) / 1000
	s.d.transfers.moved.Add(1)
	s.d.transfers.pause.Store(int64(m.refused.Sub(result.Held)))
	s.d.log.Info("export moved", "export", name, "to", m.address(), "pages", result.Sent, "rounds", result.Round, "pause_ms", done.PauseMS)
	m.giveUp()
	return done, nil
}

// address is where clients find the export then.
func (m *exportMove) address() string {
	if m.as == m.e.Name {
		return m.to.String()
	}
	return m.to.String() + " as " + m.as
}

func (m *exportMove) begin(ctx context.Context, name string) (context.Context, func(), error) {
	d := m.d
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("moves no export"); err != nil {
		return nil, nil, err
	}
	if m.e = d.find(name); m.e == nil {
		return nil, nil, noExport(name)
	}
	ctx, end, err := d.transfers.begin(ctx, name, "moved")
	if err != nil {
		return nil, nil, err
	}
	m.server = m.e.nbd().Description
	if m.log, err = m.e.device.LogChanges(); err != nil {
		end()
		return nil, nil, err
	}
	return ctx, end, nil
}

// connect opens the target's export, with this host's certificate if it has one for other
// hosts.
func (m *exportMove) connect(ctx context.Context) (*mover.Connection, error) {
	socket, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, m.to.Network, m.to.Address)
	if err != nil {
		return nil, err
	}
	prepareTCP(socket)
	var encrypt func(context.Context, net.Conn) (net.Conn, error)
	if keys := m.d.ramsterKeys.keys.Load(); keys != nil && m.to.Network == "tcp" {
		encrypt = func(ctx context.Context, socket net.Conn) (net.Conn, error) {
			host, _, err := net.SplitHostPort(m.to.Address)
			if err != nil {
				return nil, err
			}
			c := peerConfig(keys)
			c.RootCAs, c.ServerName = keys.ClientCAs, host
			encrypted := tls.Client(socket, c)
			if err := encrypted.HandshakeContext(ctx); err != nil {
				return nil, fmt.Errorf("shake hands over TLS: %w", err)
			}
			return encrypted, nil
		}
	}
	c, err := mover.Connect(ctx, socket, m.as, encrypt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.to, err)
	}
	return c, nil
}

// check keeps an export from being moved to itself.
func (m *exportMove) check(target mover.Export) error {
	if target.Description == m.server {
		return errSelf
	}
	return nil
}

var errSelf = errors.New("the target is the export itself")

// enter keeps everybody else from changing what there is, until the commit.
func (m *exportMove) enter() (leave func(), err error) {
	m.d.loading.Lock()
	if err := m.d.mayChange("moves no export"); err != nil {
		m.d.loading.Unlock()
		return nil, err
	}
	return m.d.loading.Unlock, nil
}

// commit makes the target the export. REQUIRES: loading held, and requests are held back.
func (m *exportMove) commit(context.Context) error {
	d, e := m.d, m.e
	m.moved = e.state()
	m.moved.Moved, m.moved.Allow = m.address(), e.Allow
	d.remove(e)
	d.setMoved(func(list []state.Export) []state.Export { return append(list, m.moved) })
	if err := d.saveState(false); err != nil {
		d.setMoved(func(list []state.Export) []state.Export { return list[:len(list)-1] })
		d.add(e)
		// One of the two is there now. It has to be this one before anybody writes.
		return errors.Join(err, d.saveState(false))
	}
	if err := d.server().CutExport(e.Name, movedTo(e.Name, m.moved.Moved)); err != nil {
		d.log.Error("an export that moved is not refused", "export", e.Name, "error", err)
	}
	m.log.Leave() // after the cut: nobody is told an error
	m.refused = time.Now()
	return nil
}

// giveUp frees what the export had here.
func (m *exportMove) giveUp() {
	d, e := m.d, m.e
	err := d.server().AwaitCut(context.Background(), e.Name)
	err = errors.Join(err, e.device.Close(), removeMovedStorage(m.moved))
	if err != nil {
		d.log.Warn("what an export had that moved is not all given up", "export", e.Name, "error", err)
	}
}

// moveExportError adds the cure.
func moveExportError(name string, err error) error {
	var told *admin.Error
	if errors.As(err, &told) {
		return err
	}
	told = &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("export %s is not moved, and is served here as before: %v", name, err)}
	var stuck *mover.StuckError
	switch {
	case errors.As(err, &stuck):
		told.Hint = "allow a longer pause with --max-pause, or move it when its clients do less"
	case errors.Is(err, mover.ErrTLS):
		told.Hint = "give this tmemd certificates for other hosts, below [ramster.tls], and restart it"
	case errors.Is(err, errSelf):
		told.Hint = "say the address of the other tmemd"
	default:
		told.Hint = "make an export of the same size there (tmemctl export create), which nobody uses, or put right what it says"
	}
	return told
}
