package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/protect"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/frontswap"
)

// A rehearsal is what a child with the new program does for an upgrade, beside the
// process that everything belongs to. It says on its standard output how far it is,
// and is told by a byte on a pipe to go on:
//
//	says            after                                        while requests are
//	rehearsalReady  it has looked at all that does not change,   served
//	                and has taken the memory that it will need
//	rehearsed       it has gone through a takeover, up to where  not served
//	                something would be changed
//
// Then it holds what it has locked, for the program that follows, until the pipe's
// other end is closed, by whoever has it by then and however he ends.
type rehearsal struct {
	options Options
	daemon  *Daemon
	exports []*export
	said    io.Writer
	orders  *bufio.Reader // nil: an older tmemd asks, which knows no such pipe and serves nobody
	urgent  bool          // the swap of this host goes through it
}

// What a rehearsal says, each a line. A program that knows nothing of rehearsals says
// neither.
const (
	rehearsalReady = "tmemd: this program is ready to rehearse"
	rehearsed      = "tmemd: this program can take over"
)

// ordersPipe is the name of the pipe under which it is handed over.
const ordersPipe = "orders"

// rehearsalRoom is what a rehearsal has to spare: its books are a part of the daemon's.
func rehearsalRoom(ram int64) protect.Room {
	return protect.Room{Heap: min(max(ram/64, 6<<20), 32<<20), Threads: 4}
}

// runRehearsal is the life of the child.
func runRehearsal(c *config.Config, heir *Heir, ram int64, bootID string, urgent bool, said io.Writer) (err error) {
	log := slog.New(slog.DiscardHandler)
	r := &rehearsal{said: said, urgent: urgent, options: Options{Config: c, BootID: bootID, Log: log, Heir: heir}}
	if pipe := heir.take(ordersPipe); pipe != nil {
		defer pipe.Close()
		r.orders = bufio.NewReaderSize(pipe, 16)
	}
	// Whoever serves needs the kernel's reserve, not who grows.
	if err := protect.SetUrgent(false); err != nil {
		return err
	}
	r.options.Protection, err = protect.Apply(c.Protect, servesLocally(c), rehearsalRoom(ram), log)
	if err == nil {
		err = r.options.Protection.Urgent(false)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.prepare(); err != nil {
		return err
	}
	if r.orders != nil {
		if goes, err := r.told(rehearsalReady); !goes {
			return err
		}
	}
	// From here on nobody serves the swap of this host.
	if err := r.options.Protection.Urgent(r.urgent); err != nil {
		return err
	}
	if err := r.takeOver(); err != nil {
		return err
	}
	_, err = r.told(rehearsed)
	return err
}

// told says how far the rehearsal is, and waits until it is told to go on; it is not
// if the pipe is closed.
func (r *rehearsal) told(what string) (goes bool, err error) {
	if _, err := fmt.Fprintln(r.said, what); err != nil || r.orders == nil {
		return false, err
	}
	if _, err = r.orders.ReadByte(); errors.Is(err, io.EOF) {
		return false, nil
	}
	return err == nil, err
}

// prepare looks at what cannot change before the takeover, and gets hold of what the
// takeover is of.
func (r *rehearsal) prepare() (err error) {
	o := r.options
	d := &Daemon{config: o.Config, options: o, log: o.Log}
	r.daemon = d
	if d.folder, err = state.Inherit(o.Config.StateDir, o.Heir.take("lock")); err != nil {
		return err
	}
	p, last, err := d.plan()
	if err != nil {
		return err
	}
	if !p.takeover {
		return errors.New("there is nothing to take over")
	}
	r.exports = p.exports
	for _, e := range p.exports {
		if !e.takeover {
			continue
		}
		if err := hasContent(e.Storage, e.Size); err != nil {
			return fmt.Errorf("storage of export %s: %w", e.Name, err)
		}
	}
	if d.identity, err = sharedmem.ParseIdentity(last.Identity); err != nil {
		return err
	}
	d.memory, err = sharedmem.OpenFolder(sharedmem.FolderConfig{
		Path: last.Memory, Identity: d.identity, Boot: o.BootID, ReadOnly: true, Inherited: o.Heir.take("memory"),
	})
	if err != nil {
		return err
	}
	if err := d.loadKeys(); err != nil {
		return err
	}
	if err := d.memory.Hold(); err != nil {
		return err
	}
	if err := r.knowsRecord(); err != nil {
		return err
	}
	if !o.Protection.Locked() {
		return nil
	}
	// What the new program reads when it starts, itself included: parts of it this
	// process has changed, and no use for as they are in the file.
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find out which program this is: %w", err)
	}
	for _, path := range append(o.Config.Files(), program, d.folder.Path(state.FileName), "/etc/localtime") {
		if err := protect.KeepFile(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// knowsRecord looks whether the record of the backends is of this version. What else
// it says may be about to be changed.
func (r *rehearsal) knowsRecord() error {
	record, _, err := r.daemon.memory.Open(recordName, recordPurpose)
	if err != nil {
		return err
	}
	_, err = readRecord(record.Bytes())
	if !errors.Is(err, sharedmem.ErrOtherVersion) {
		err = nil
	}
	return errors.Join(err, record.Leave())
}

// takeOver goes through a takeover up to the point where it would change something.
func (r *rehearsal) takeOver() (err error) {
	d := r.daemon
	if err := d.memory.Hold(); err != nil { // what came since
		return err
	}
	d.makeFrontswap()
	defer func() { err = errors.Join(err, d.frontswap.Abandon()) }()
	if _, err := d.restore(); err != nil {
		return err
	}
	for _, e := range r.exports {
		if !e.takeover {
			continue
		}
		a, err := d.frontswap.OpenArea(frontswap.AreaConfig{Name: e.Name, ID: e.id, Pages: uint64(e.Size / pageSize), Takeover: true})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.Close()) }()
	}
	return nil
}

func (r *rehearsal) close() error {
	errs := []error{r.daemon.closeMemory()}
	if r.daemon.folder != nil {
		errs = append(errs, r.daemon.folder.Close())
	}
	return errors.Join(errs...)
}
