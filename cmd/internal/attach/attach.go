package attach

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/nbd"
)

// Limits and defaults of an attachment.
const (
	MaxConnections  = 8
	DefaultPriority = 100

	// DefaultTimeout is the age at which a request's connections are given up and
	// made anew. It is also the longest that a request which was on its way when a
	// connection died waits to be sent again. Linux takes 30 s if it is told 0,
	// but then has no bound for sending, and leaves no trace of what it accepted.
	DefaultTimeout = 30 * time.Second
	// DefaultDeadConnTimeout is how long requests wait for a server that is gone.
	DefaultDeadConnTimeout = 10 * time.Minute

	handshakeTimeout = 15 * time.Second // more than tmemd takes to end older connections
	nodeTimeout      = 5 * time.Second  // for /dev/nbdN to appear
)

// Options is what an attachment is made of.
type Options struct {
	Device      string         // "/dev/nbd0"; empty takes a free one
	Address     config.Address // of the server
	Export      string
	Connections int // from 1 to MaxConnections; 0 stands for the number of processors
	Priority    int // of the swap area, from 0 to MaxPriority
	Discard     bool
	Force       bool // make swap of a device that has other content
	NoSwap      bool // make no swap of it: it is a disk

	Timeout         time.Duration // whole seconds, at least one
	DeadConnTimeout time.Duration // whole seconds, at least one

	RunDir string // for records
	Log    *slog.Logger
	Ready  func(Record) // called when the device is swap; may be nil
}

// Attachment is a device that is swap, and the agent that looks after it. It is
// for one goroutine.
type Attachment struct {
	options Options // immutable
	kernel  kernel  // immutable
	host    host    // immutable
	log     *slog.Logger
	started uint64 // immutable; when this process began, for the record

	slot   *slot
	device device
	record Record
	fence  fence
	links  []*os.File // the agent's hold on the sockets that the kernel uses
	made   bool       // the device was configured by us, and is not swap yet
}

// host is what an attachment does to the machine besides the NBD driver. Tests
// have another one.
type host interface {
	// prepare makes a device a swap area, unless it is one, and says what it did.
	prepare(path string, size uint64, force bool) (did string, err error)
	swapOn(path string, priority int, discard bool) error
	swapOff(path string) error
	// appear waits until a device is in /dev.
	appear(path string) error
	// release syncs a device that is no swap; it is refused while the device is mounted.
	release(path string) error
	// used is how much of a swap device is in use, in bytes; ok is false if the
	// kernel does not swap to it.
	used(path string) (bytes int64, ok bool, err error)
	// now is the wall clock, which may be set back.
	now() time.Time
}

// linux is this machine.
type linux struct{}

func (linux) prepare(path string, size uint64, force bool) (string, error) {
	if err := awaitNode(path); err != nil {
		return didNothing, err
	}
	return prepareDevice(path, size, force)
}

func (linux) swapOn(path string, priority int, discard bool) error {
	return swapOn(path, priority, discard)
}
func (linux) now() time.Time                        { return time.Now() }
func (linux) appear(path string) error              { return awaitNode(path) }
func (linux) release(path string) error             { return release(path) }
func (linux) swapOff(path string) error             { return swapOff(path) }
func (linux) used(path string) (int64, bool, error) { return swapUsed("/proc", path) }

// awaitNode waits for a device that the kernel has just made to be in /dev.
func awaitNode(path string) error {
	for deadline := time.Now().Add(nodeTimeout); ; time.Sleep(20 * time.Millisecond) {
		_, err := os.Stat(path)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// Attach makes an export this machine's swap. The caller runs the attachment's
// agent next. After an error the machine is as it was.
func Attach(ctx context.Context, o Options) (*Attachment, error) {
	return attach(ctx, o, newDriver(), linux{})
}

func attach(ctx context.Context, o Options, k kernel, h host) (_ *Attachment, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	started, err := processStarted(os.Getpid())
	if err != nil {
		return nil, err
	}
	a := &Attachment{options: o, kernel: k, host: h, log: o.Log, started: started}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.undo())
		}
	}()
	a.device.index = anyIndex
	if o.Device != "" {
		if a.device.index, err = ParseDevice(o.Device); err != nil {
			return nil, err
		}
		if a.slot, err = takeSlot(o.RunDir, a.device.index); err != nil {
			return nil, err
		}
		adopted, err := a.adopt()
		if err != nil || adopted {
			return a, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := a.configure(); err != nil {
		return nil, err
	}
	return a, a.use()
}

// complete fills in what was left out, and refuses what cannot work.
func (o *Options) complete() (err error) {
	if o.Connections == 0 {
		o.Connections = defaultConnections()
	}
	switch {
	case o.Connections < 1 || o.Connections > MaxConnections:
		return cli.Misuse(fmt.Sprintf("write a number from 1 to %d", MaxConnections), "%d connections", o.Connections)
	case o.Priority < 0 || o.Priority > MaxPriority:
		return cli.Misuse(fmt.Sprintf("write a number from 0 to %d", MaxPriority), "%d is not a priority", o.Priority)
	case o.Timeout < time.Second || o.Timeout%time.Second != 0:
		return cli.Misuse("write whole seconds, such as 30s", "%s is not a timeout of requests", o.Timeout)
	case o.DeadConnTimeout < time.Second || o.DeadConnTimeout%time.Second != 0:
		return cli.Misuse("write whole seconds, such as 10m", "%s is not a time to wait for a dead server", o.DeadConnTimeout)
	}
	o.Address, err = resolve(o.Address)
	return err
}

// resolve looks a host's name up once, while that cannot hang: a resolver may
// need memory that only swap could free.
func resolve(a config.Address) (config.Address, error) {
	if a.Network != "tcp" {
		return a, nil
	}
	found, err := net.ResolveTCPAddr("tcp", a.Address)
	if err != nil {
		return a, cli.Failure("write the address as numbers, or correct the name", "look up %s: %v", a.Address, err)
	}
	a.Address = found.String()
	return a, nil
}

// configure negotiates the connections and hands them to a device.
func (a *Attachment) configure() error {
	o := a.options
	if _, err := rand.Read(a.fence.session[:]); err != nil {
		return fmt.Errorf("make up a session: %w", err)
	}
	var name [8]byte
	if _, err := rand.Read(name[:]); err != nil {
		return fmt.Errorf("make up a session: %w", err)
	}
	a.fence.advance(a.host.now())
	first, err := a.dial(nil, 1)
	if err != nil {
		return err
	}
	a.links = sockets(first)
	server := first[0].server
	if err := suitable(server, o.NoSwap); err != nil {
		return err
	}
	count := o.Connections
	if server.Flags&flagMultiConn == 0 && count > 1 {
		a.log.Warn("the server allows one connection only: reading waits behind writing")
		count = 1
	}
	others, err := a.dial(&server, count-1)
	if err != nil {
		return err
	}
	a.links = append(a.links, sockets(others)...)
	a.device.size, a.device.blockSize, a.device.flags = server.Size, pageSize, server.Flags
	a.device.timeout, a.device.deadConnTimeout = o.Timeout, o.DeadConnTimeout
	a.device.backend = "tmemctl " + hex.EncodeToString(name[:])
	if a.device.index, err = a.kernel.connect(a.device, descriptors(a.links)); err != nil {
		return err
	}
	a.made = true
	if a.slot == nil {
		if a.slot, err = takeSlot(o.RunDir, a.device.index); err != nil {
			return err
		}
	}
	a.record = Record{
		Device: devicePath(a.device.index), Index: a.device.index, PID: os.Getpid(), Started: a.started,
		Address: o.Address, Server: server, Fenced: first[0].fenced, Session: a.fence.session[:], Generation: a.fence.generation, Backend: a.device.backend,
		Connections: count, Priority: o.Priority, Discard: o.Discard && server.Flags&flagTrim != 0,
		Timeout: o.Timeout, DeadConnTimeout: o.DeadConnTimeout, NoSwap: o.NoSwap, Phase: PhaseAttached,
	}
	if !a.record.Fenced {
		a.log.Warn("the server does not end abandoned connections when asked: after a reconnect a delayed request could undo a newer write")
	}
	if server.Identity == "" {
		a.log.Warn("the server does not say who it is: another one, as large or larger, would be taken for it after a reconnect")
	}
	if o.Discard && !a.record.Discard && !o.NoSwap {
		a.log.Warn("the server takes no TRIM: it will keep pages that the kernel does not need any more")
	}
	return nil
}

const nbdHasFlags = uint16(1 << 0)

// dial negotiates connections of one generation. With a server to compare with,
// another one is refused.
func (a *Attachment) dial(server *Server, count int) (made []*connection, err error) {
	defer func() {
		if err != nil {
			for _, c := range made {
				err = errors.Join(err, c.socket.Close())
			}
			made = nil
		}
	}()
	for range count {
		c, err := dial(a.options.Address, a.options.Export, a.fence, time.Now().Add(handshakeTimeout))
		if err != nil {
			return made, explainDial(a.options.Address, err)
		}
		made = append(made, c)
		if server == nil {
			continue
		}
		if why := server.differs(c.server); why != "" {
			return made, &differentError{why}
		}
	}
	return made, nil
}

// differentError says that whoever answers is not the server of before.
type differentError struct{ why string }

func (e *differentError) Error() string {
	return "the server that answers is not the one that the device was attached to: " + e.why
}

func explainDial(address config.Address, err error) error {
	var told *cli.Error
	if errors.As(err, &told) {
		return err
	}
	if isGone(err) {
		return cli.Failure("start tmemd there, or say where it serves with --server ADDRESS", "nobody serves NBD on %s", address)
	}
	return err
}

func sockets(list []*connection) []*os.File {
	var files []*os.File
	for _, c := range list {
		files = append(files, c.socket)
	}
	return files
}

func descriptors(files []*os.File) []int {
	var list []int
	for _, f := range files {
		list = append(list, int(f.Fd()))
	}
	return list
}

// swap makes the configured device swap.
func (a *Attachment) swap() error {
	did, err := a.host.prepare(a.record.Device, a.device.size, a.options.Force)
	if err != nil {
		return err
	}
	switch did {
	case didNothing:
	case didSpare:
		a.log.Warn(did, "device", a.record.Device, "bytes", a.device.size)
	default:
		a.log.Info(did, "device", a.record.Device, "bytes", a.device.size)
	}
	if err := a.slot.save(a.record); err != nil {
		return err
	}
	if err := a.host.swapOn(a.record.Device, a.record.Priority, a.record.Discard); err != nil {
		return err
	}
	a.made = false
	return nil
}

// adopt takes over a device whose agent died. Its connections are the kernel's
// still, but nobody has a hold on them: they are all made anew.
func (a *Attachment) adopt() (bool, error) {
	connected, err := a.kernel.connected(a.device.index)
	if err != nil || !connected {
		return false, err
	}
	r, found, err := readRecord(a.options.RunDir, a.device.index)
	if err != nil || !found {
		return false, err // configuring will say that it is in use
	}
	if r.Server.Name != a.options.Export {
		return false, cli.Failure("tmemctl detach it first, or attach another device", "%s is attached to export %q", r.Device, r.Server.Name)
	}
	if r.NoSwap != a.options.NoSwap {
		return false, cli.Failure("say --no-swap as before, or tmemctl detach it first; without it swap is made of the device",
			"%s is attached with --no-swap=%t", r.Device, r.NoSwap)
	}
	if len(r.Session) != nbd.SessionSize {
		return false, fmt.Errorf("take over %s: its record has no session", r.Device)
	}
	copy(a.fence.session[:], r.Session)
	a.fence.generation = r.Generation
	a.device = device{
		index: r.Index, size: r.Server.Size, blockSize: pageSize, flags: r.Server.Flags, backend: r.Backend,
		timeout: r.Timeout, deadConnTimeout: r.DeadConnTimeout,
	}
	r.PID, r.Started, r.Phase = os.Getpid(), a.started, PhaseReconnecting
	a.record = r
	a.log.Info("taking over a device whose agent is gone", "device", r.Device)
	_, swapping, err := a.host.used(r.Device)
	if err != nil {
		return false, err
	}
	if !swapping {
		// The agent died before the device was swap, or it is not to be.
		return true, a.use()
	}
	return true, a.slot.save(a.record)
}

// undo takes back what a failed Attach did.
func (a *Attachment) undo() (err error) {
	if a.made {
		err = a.kernel.disconnect(a.device.index)
	}
	for _, f := range a.links {
		err = errors.Join(err, f.Close())
	}
	if a.slot != nil {
		if a.made {
			err = errors.Join(err, a.slot.remove())
		}
		err = errors.Join(err, a.slot.close())
	}
	return err
}
