package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

const (
	// lookEvery is how often DNS is asked who donors are.
	lookEvery = time.Minute
	// lookTimeout is how long it has to answer.
	lookTimeout = 10 * time.Second
)

// remotes are the loaded backends that are other hosts' memory, by name.
func (d *Daemon) remotes() map[string]*remote {
	found := map[string]*remote{}
	for _, b := range d.frontswap.Backends() {
		if r, ok := behindRules(b.Backend).(*remote); ok {
			found[b.Name] = r
		}
	}
	return found
}

// watchDonors keeps lists of donors as files and DNS have them. Files are read when
// somebody asks for it only: one that is being written is not to be believed.
func (d *Daemon) watchDonors(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		for name, r := range d.remotes() {
			d.lookFor(ctx, name, r)
		}
		select {
		case <-tick.C:
		case <-d.look:
		case <-ctx.Done():
			return
		}
	}
}

// lookSoon wakes watchDonors.
func (d *Daemon) lookSoon() {
	select {
	case d.look <- struct{}{}:
	default: // it will look anyway
	}
}

// lookFor asks DNS for the donors of a backend. While it does not answer the list stays.
func (d *Daemon) lookFor(ctx context.Context, name string, r *remote) {
	if r.service != "" {
		list, err := d.lookUp(ctx, r.service)
		if err != nil {
			if ctx.Err() == nil {
				d.log.Warn("DNS does not tell who donors are: they stay as they were", "backend", name, "donors_srv", r.service, "error", err)
			}
			return
		}
		r.setNamed(list)
	}
	if r.list(d.log) {
		d.recordSettings(name)
	}
}

// lookUp makes donors of SRV records.
func (d *Daemon) lookUp(ctx context.Context, service string) ([]ramster.Donor, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	ask := d.options.LookUp
	if ask == nil {
		ask = func(ctx context.Context, name string) ([]*net.SRV, error) {
			_, records, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
			return records, err
		}
	}
	records, err := ask(ctx, service)
	if err != nil {
		return nil, err
	}
	var list []ramster.Donor
	for _, record := range records {
		text := "tcp://" + net.JoinHostPort(strings.TrimSuffix(record.Target, "."), fmt.Sprint(record.Port))
		donor, wrong := config.ParseDonor(text)
		if wrong != nil {
			return nil, fmt.Errorf("%s: %w", service, wrong)
		}
		list = append(list, donor)
	}
	return list, nil
}

// readDonors reads the files that list donors anew, and returns which.
func (d *Daemon) readDonors() (files []string, err error) {
	for name, r := range d.remotes() {
		if r.file == "" {
			continue
		}
		list, wrong := config.ReadDonors(r.file)
		if wrong == nil {
			wrong = d.config.Ramster.CheckDonors(list)
		}
		if wrong != nil {
			d.log.Error("the list of donors stays as it was", "backend", name, "donors_file", r.file, "error", wrong)
			return files, &admin.Error{
				Status: http.StatusConflict, Message: fmt.Sprintf("the donors of %s stay as they were: donors_file: %s", name, wrong.Problem), Hint: wrong.Hint,
			}
		}
		r.setFiled(list)
		if r.list(d.log) {
			d.recordSettings(name)
		}
		files = append(files, r.file)
	}
	return files, nil
}

// Donors implements admin.Service.
func (s service) Donors() []admin.Donor {
	shown := []admin.Donor{}
	for _, b := range s.d.frontswap.Backends() {
		r, ok := behindRules(b.Backend).(*remote)
		if !ok {
			continue
		}
		for _, donor := range r.Donors() {
			d := showDonor(b.Name, donor)
			if why, unreached := s.d.unreached.Load(d.Address); unreached && d.Reason == "" && d.State != "up" {
				d.Reason = why.(string)
			}
			shown = append(shown, d)
		}
	}
	return shown
}

func showDonor(backend string, d ramster.DonorStatus) admin.Donor {
	return admin.Donor{
		Backend: backend, Name: d.Name, Address: d.Address, State: d.State, Reason: d.Reason, Leaving: d.Leaving, Frozen: d.Frozen,
		Pages: d.Pages, FreeBytes: d.Free, WantedBytes: d.Wanted, RejectedReplies: d.Rejected, MissingPages: d.Missing,
		MissedDeadlines: d.Session.Missed, Sessions: d.Session.Sessions, LatencySeconds: d.Session.Latency.Seconds(),
		SentBytes: d.Session.BytesOut, ReceivedBytes: d.Session.BytesIn,
	}
}

// remoteOf finds the backend that a request is about: the only one, if it names none.
func (s service) remoteOf(name string) (string, *remote, error) {
	all := s.d.remotes()
	if name != "" {
		r := all[name]
		if r == nil {
			return "", nil, &admin.Error{
				Status: http.StatusNotFound, Message: fmt.Sprintf("no backend %s of the kind ramster is loaded", name), Hint: listHint,
			}
		}
		return name, r, nil
	}
	if len(all) != 1 {
		told := &admin.Error{Status: http.StatusConflict, Message: "no backend of the kind ramster is loaded", Hint: "load one: tmemctl backend load ramster"}
		if len(all) > 1 {
			told.Message, told.Hint = fmt.Sprintf("which of the %d backends of the kind ramster is meant?", len(all)), "say --backend NAME; "+listHint
		}
		return "", nil, told
	}
	for only, r := range all {
		name = only
		return name, r, nil
	}
	return "", nil, nil
}

// AddDonor implements admin.Service.
func (s service) AddDonor(request admin.DonorRequest) (admin.Donor, error) {
	name, r, err := s.remoteOf(request.Backend)
	if err != nil {
		return admin.Donor{}, err
	}
	text := request.Address
	if request.Name != "" {
		text = request.Name + "=" + text
	}
	donor, wrong := config.ParseDonor(text)
	if wrong == nil {
		wrong = s.d.config.Ramster.CheckDonors([]ramster.Donor{donor})
	}
	if wrong != nil {
		return admin.Donor{}, badSetting(wrong)
	}
	if err := r.AddDonor(donor); err != nil {
		told := &admin.Error{Status: http.StatusConflict, Message: err.Error(), Hint: "see the daemon's log"}
		if errors.Is(err, ramster.ErrKnown) {
			told.Hint = "choose another name; tmemctl donor list shows them; one that is leaving has its name until its pages are gone"
		}
		return admin.Donor{}, told
	}
	s.d.recordSettings(name)
	s.d.log.Info("donor added", "backend", name, "donor", donor.Name, "address", donor.Address)
	return s.findDonor(name, donor.Name)
}

// RemoveDonor implements admin.Service.
func (s service) RemoveDonor(request admin.DonorRemoval) (admin.Donor, error) {
	name, r, err := s.remoteOf(request.Backend)
	if err != nil {
		return admin.Donor{}, err
	}
	if err := r.RemoveDonor(request.Name, request.Now); err != nil {
		told := &admin.Error{Status: http.StatusConflict, Message: err.Error(), Hint: "see the daemon's log"}
		if errors.Is(err, ramster.ErrUnknown) {
			told.Status, told.Hint = http.StatusNotFound, "tmemctl donor list shows them"
		}
		return admin.Donor{}, told
	}
	s.d.recordSettings(name)
	s.d.log.Info("donor removed: its pages move to others", "backend", name, "donor", request.Name, "now", request.Now)
	d, err := s.findDonor(name, request.Name)
	if err != nil {
		return admin.Donor{Backend: name, Name: request.Name, State: "gone"}, nil // it had nothing
	}
	return d, nil
}

func (s service) findDonor(backend, name string) (admin.Donor, error) {
	for _, d := range s.Donors() {
		if d.Backend == backend && d.Name == name {
			return d, nil
		}
	}
	return admin.Donor{}, &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("backend %s has no donor %s", backend, name), Hint: "tmemctl donor list shows them"}
}
