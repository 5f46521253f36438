package daemon

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/frontswap"
)

// addClients decides which clients there are: those of the configuration, as requests
// changed them, those that requests made, and those that exports of the last run
// belong to although nobody names them any more.
func (p *plan) addClients(c *config.Config, last state.State) {
	for _, configured := range c.Clients {
		q := configured.Quota
		p.clients = append(p.clients, state.Client{Name: configured.Name, Weight: q.Weight, Cap: q.Cap, Reservation: q.Reservation, Dedup: q.Dedup})
	}
	for _, before := range last.Clients {
		at := slices.IndexFunc(p.clients, func(c state.Client) bool { return c.Name == before.Name })
		switch {
		case at >= 0 && before.Changed:
			p.notes = append(p.notes, fmt.Sprintf("client %s keeps what tmemctl client set gave it, not what the configuration says", before.Name))
			before.Created = false
			p.clients[at] = before
		case at >= 0:
			p.clients[at].Frozen = before.Frozen
		case before.Created || before.Changed || before.Name == frontswap.DefaultClient:
			before.Created = true
			p.clients = append(p.clients, before)
		case slices.ContainsFunc(p.exports, func(e *export) bool { return e.Client == before.Name }):
			before.Created = true
			p.clients = append(p.clients, before)
		}
	}
	for _, e := range p.exports {
		if e.Client != "" && e.Client != frontswap.DefaultClient && !slices.ContainsFunc(p.clients, func(c state.Client) bool { return c.Name == e.Client }) {
			p.notes = append(p.notes, fmt.Sprintf("export %s belongs to no client any more: %s is gone", e.Name, e.Client))
			e.Client = ""
		}
	}
}

// makeClients makes the clients of the plan. No backend is there yet, so nobody knows
// whether their reservations can be kept: what cannot is shown.
func (d *Daemon) makeClients() {
	for _, c := range d.clients {
		q := frontswap.Quota{Weight: c.Weight, Cap: c.Cap, Reservation: c.Reservation, Dedup: c.Dedup}
		err := d.frontswap.CreateClient(c.Name, q)
		if errors.Is(err, frontswap.ErrClientExists) {
			err = d.frontswap.SetClient(c.Name, q)
		}
		if err == nil && c.Frozen {
			err = d.frontswap.FreezeClient(c.Name)
		}
		if err != nil {
			d.log.Warn("a client is not what it was", "client", c.Name, "error", err)
		}
	}
}

// Clients implements admin.Service.
func (s service) Clients() ([]admin.PoolClient, error) {
	shown := []admin.PoolClient{}
	exports := s.d.snapshot().Exports
	for _, c := range s.d.frontswap.Clients() {
		p := admin.PoolClient{
			Name: c.Name, Weight: c.Quota.Weight, CapBytes: c.Quota.Cap, ReservationBytes: c.Quota.Reservation, KeptBytes: c.Reserved,
			Dedup: c.Quota.Dedup, Frozen: c.Frozen, Exports: c.Areas, Pages: c.Pages, UsedBytes: c.Used, PromisedBytes: c.Promised, Evicted: c.Evicted,
			Refused: map[string]uint64{},
		}
		if c.Due < math.MaxUint64 {
			p.Share = c.Due
		}
		if p.Exports == nil {
			p.Exports = []string{}
		}
		slices.Sort(p.Exports)
		for reason := range frontswap.ClientRefusals {
			p.Refused[reason.String()] = c.Refused[reason]
		}
		for _, x := range exports {
			if x.Stats.Area.Client == c.Name {
				p.WorstBytes += uint64(max(x.Size-x.Stats.Storage.AllocatedSize, 0))
			}
		}
		shown = append(shown, p)
	}
	return shown, nil
}

func (s service) findClient(name string) (admin.PoolClient, error) {
	list, err := s.Clients()
	if err != nil {
		return admin.PoolClient{}, err
	}
	i := slices.IndexFunc(list, func(c admin.PoolClient) bool { return c.Name == name })
	if i < 0 {
		return admin.PoolClient{}, noClient(name)
	}
	return list[i], nil
}

func noClient(name string) *admin.Error {
	return &admin.Error{Status: http.StatusNotFound, Message: "there is no client " + name, Hint: "tmemctl client list shows what there is"}
}

// clientError says what to do about an error of frontswap's.
func clientError(name string, err error) error {
	told := &admin.Error{Status: http.StatusConflict, Message: err.Error()}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, frontswap.ErrNoClient):
		return noClient(name)
	case errors.Is(err, frontswap.ErrClientExists):
		told.Message, told.Hint = fmt.Sprintf("there is a client %s already", name), "choose another name, or change that one with tmemctl client set"
	case errors.Is(err, frontswap.ErrReserved):
		told.Hint = "reserve less, or give backends more memory; tmemctl client list shows what is reserved"
	case errors.Is(err, frontswap.ErrClientInUse):
		told.Hint = "an export was made for it just now: once more"
	default:
		told.Status = http.StatusBadRequest
	}
	return told
}

// quota brings a request and what there is together.
func (s service) quota(q frontswap.Quota, r admin.ClientSettings) (frontswap.Quota, error) {
	bad := func(key string, wrong *cli.Error) error {
		return &admin.Error{Status: http.StatusBadRequest, Message: key + ": " + wrong.Problem, Hint: wrong.Hint}
	}
	if r.Weight != nil {
		weight, wrong := config.Weight(*r.Weight)
		if wrong != nil {
			return q, bad("weight", wrong)
		}
		q.Weight = weight
	}
	for _, size := range []struct {
		key  string
		text *string
		to   *uint64
	}{{"cap", r.Cap, &q.Cap}, {"reservation", r.Reservation, &q.Reservation}} {
		if size.text == nil {
			continue
		}
		bytes, wrong := config.ShareBytes(*size.text, s.d.options.RAM)
		if wrong != nil {
			return q, bad(size.key, wrong)
		}
		*size.to = bytes
	}
	if r.Dedup != nil {
		q.Dedup = *r.Dedup
	}
	return q, nil
}

// CreateClient implements admin.Service.
func (s service) CreateClient(r admin.ClientRequest) (admin.PoolClient, error) {
	if wrong := config.CheckExportName(r.Name); wrong != nil {
		return admin.PoolClient{}, &admin.Error{Status: http.StatusBadRequest, Message: wrong.Problem, Hint: wrong.Hint}
	}
	settings := admin.ClientSettings{Cap: &r.Cap, Reservation: &r.Reservation, Dedup: &r.Dedup}
	if r.Weight != 0 {
		settings.Weight = &r.Weight
	}
	q, err := s.quota(frontswap.Quota{Weight: 1}, settings)
	if err != nil {
		return admin.PoolClient{}, err
	}
	err = s.changeClients("creates no client", func() error {
		if err := s.d.frontswap.CreateClient(r.Name, q); err != nil {
			return clientError(r.Name, err)
		}
		s.d.clients = append(slices.Clone(s.d.clients), state.Client{Name: r.Name, Created: true, Weight: q.Weight, Cap: q.Cap, Reservation: q.Reservation, Dedup: q.Dedup})
		return nil
	}, func() error { return s.d.frontswap.DestroyClient(r.Name) })
	if err != nil {
		return admin.PoolClient{}, err
	}
	s.d.log.Info("client created", "client", r.Name, "weight", q.Weight, "cap", q.Cap, "reservation", q.Reservation, "dedup", q.Dedup)
	return s.findClient(r.Name)
}

// changeClients changes clients and notes it; after an error it is as before.
func (s service) changeClients(what string, change, undo func() error) error {
	d := s.d
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange(what); err != nil {
		return err
	}
	before := d.clients
	if err := change(); err != nil {
		return err
	}
	if err := d.saveState(false); err != nil {
		d.clients = before
		return errors.Join(err, undo())
	}
	return nil
}

// noteClient notes what a client is like now. REQUIRES: loading held.
func (d *Daemon) noteClient(name string, change func(*state.Client)) {
	d.clients = slices.Clone(d.clients)
	i := slices.IndexFunc(d.clients, func(c state.Client) bool { return c.Name == name })
	if i < 0 { // the default client, which nobody named so far
		d.clients = append(d.clients, state.Client{Name: name, Created: true, Weight: 1})
		i = len(d.clients) - 1
	}
	change(&d.clients[i])
}

func (d *Daemon) quotaOf(name string) (frontswap.ClientStatus, bool) {
	list := d.frontswap.Clients()
	i := slices.IndexFunc(list, func(c frontswap.ClientStatus) bool { return c.Name == name })
	if i < 0 {
		return frontswap.ClientStatus{}, false
	}
	return list[i], true
}

// SetClient implements admin.Service.
func (s service) SetClient(name string, settings admin.ClientSettings) (admin.PoolClient, error) {
	before, found := s.d.quotaOf(name)
	if !found {
		return admin.PoolClient{}, noClient(name)
	}
	q, err := s.quota(before.Quota, settings)
	if err != nil {
		return admin.PoolClient{}, err
	}
	err = s.changeClients("changes no client", func() error {
		if err := s.d.frontswap.SetClient(name, q); err != nil {
			return clientError(name, err)
		}
		s.d.noteClient(name, func(c *state.Client) {
			c.Weight, c.Cap, c.Reservation, c.Dedup, c.Changed = q.Weight, q.Cap, q.Reservation, q.Dedup, true
		})
		return nil
	}, func() error { return s.d.frontswap.SetClient(name, before.Quota) })
	if err != nil {
		return admin.PoolClient{}, err
	}
	s.d.log.Info("client changed", "client", name, "weight", q.Weight, "cap", q.Cap, "reservation", q.Reservation, "dedup", q.Dedup)
	return s.findClient(name)
}

// FreezeClient implements admin.Service.
func (s service) FreezeClient(name string, frozen bool) (admin.PoolClient, error) {
	do, undo, told := s.d.frontswap.ThawClient, s.d.frontswap.FreezeClient, "client thawed"
	if frozen {
		do, undo, told = undo, do, "client frozen"
	}
	err := s.changeClients("changes no client", func() error {
		if err := do(name); err != nil {
			return clientError(name, err)
		}
		s.d.noteClient(name, func(c *state.Client) { c.Frozen = frozen })
		return nil
	}, func() error { return undo(name) })
	if err != nil {
		return admin.PoolClient{}, err
	}
	s.d.log.Info(told, "client", name)
	return s.findClient(name)
}

// DestroyClient implements admin.Service.
func (s service) DestroyClient(name string, r admin.DestroyRequest) (admin.Destroyed, error) {
	d := s.d
	if name == frontswap.DefaultClient {
		return admin.Destroyed{}, &admin.Error{
			Status: http.StatusConflict, Message: "the client default stays: exports that name no client belong to it", Hint: "delete its exports with tmemctl export delete",
		}
	}
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("destroys no client"); err != nil {
		return admin.Destroyed{}, err
	}
	before, found := d.quotaOf(name)
	if !found {
		return admin.Destroyed{}, noClient(name)
	}
	var mine []*export
	for _, e := range d.list() {
		if e.Client == name {
			mine = append(mine, e)
		}
	}
	if err := s.unattached(mine); err != nil && !r.Disconnect {
		return admin.Destroyed{}, err
	}
	told := admin.Destroyed{Name: name, FreedPages: before.Pages, FreedBytes: before.Used, Exports: []string{}, Storage: []string{}}
	for _, e := range mine {
		remove := r.RemoveStorage && e.removable()
		if err := s.deleteUsed(e, remove, r.Disconnect); err != nil {
			return told, err
		}
		told.Exports = append(told.Exports, e.Name)
		if !remove {
			told.Storage = append(told.Storage, e.Storage)
		}
	}
	if err := d.frontswap.DestroyClient(name); err != nil {
		return told, clientError(name, err)
	}
	d.clients = slices.DeleteFunc(slices.Clone(d.clients), func(c state.Client) bool { return c.Name == name })
	if err := d.saveState(false); err != nil {
		return told, err
	}
	d.log.Info("client destroyed", "client", name, "exports", len(mine), "pages", told.FreedPages, "bytes", told.FreedBytes)
	return told, nil
}

// disconnecting is how long clients have until they are gone.
const disconnecting = 10 * time.Second

// deleteUsed deletes an export, and first cuts off who uses it if that is wanted: again and
// again, as such clients come back. REQUIRES: loading held.
func (s service) deleteUsed(e *export, removeStorage, disconnect bool) error {
	for deadline := time.Now().Add(disconnecting); disconnect; time.Sleep(5 * time.Millisecond) {
		s.d.server().Disconnect(e.Name)
		err := s.unattached([]*export{e})
		if err == nil {
			if err = s.d.delete(e, removeStorage); err == nil || s.unattached([]*export{e}) == nil {
				return err
			}
		}
		if time.Now().After(deadline) {
			return err
		}
	}
	return s.d.delete(e, removeStorage)
}

// unattached refuses if somebody uses one of the exports, before any is deleted.
func (s service) unattached(exports []*export) error {
	var used []string
	for _, c := range s.d.server().Clients() {
		if slices.ContainsFunc(exports, func(e *export) bool { return e.Name == c.Export }) && !slices.Contains(used, c.Export) {
			used = append(used, c.Export)
		}
	}
	if len(used) == 0 {
		return nil
	}
	return &admin.Error{
		Status: http.StatusConflict, Message: "exports of the client have NBD clients attached: " + strings.Join(used, ", "),
		Hint: "stop the virtual machine, or swapoff and detach, first (tmemctl status shows who they are); or cut them off with --disconnect",
	}
}
