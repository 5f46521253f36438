package daemon

import (
	"net/http"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

const lendHint = "write [donor] and [[donor.client]] into the configuration file, and start tmemd anew"

// Lent implements admin.Service.
func (s service) Lent() (admin.Lent, error) {
	l := s.d.lent
	if l == nil {
		return admin.Lent{}, &admin.Error{Status: http.StatusConflict, Message: "this tmemd lends no memory", Hint: lendHint}
	}
	now := l.donor.Stats()
	shown := admin.Lent{
		Frozen: now.Frozen, HeldBytes: now.HeldBytes, LimitBytes: now.LimitBytes, MaxBytes: now.MaxBytes, Stall: now.Stall,
		Sessions: now.Sessions, Denied: now.Denied + now.Unidentified, Listen: []string{}, Clients: []admin.LentClient{},
	}
	for _, a := range l.bound {
		shown.Listen = append(shown.Listen, a.String())
	}
	for _, c := range now.Clients {
		shown.Clients = append(shown.Clients, admin.LentClient{
			Name: c.Name, Granted: c.Granted, QuotaBytes: c.Quota, Weight: c.Weight, UsedBytes: c.Used, WantedBytes: c.Wanted,
			Pages: c.Persistent, EphemeralPages: c.Ephemeral, Sessions: c.Sessions,
		})
	}
	return shown, nil
}

// SetLent implements admin.Service.
func (s service) SetLent(settings admin.LentSettings) (admin.Lent, error) {
	l := s.d.lent
	if l == nil {
		return s.Lent()
	}
	if settings.Size != "" {
		size, err := config.BackendSize(settings.Size, s.d.options.RAM)
		if err == nil {
			err = l.donor.SetLimit(size)
		}
		if err != nil {
			return admin.Lent{}, &admin.Error{Status: http.StatusBadRequest, Message: "size: " + err.Error(), Hint: config.SizeSyntax}
		}
		s.d.log.Info("memory that is lent has another limit", "bytes", size)
	}
	if settings.Frozen != nil {
		if *settings.Frozen {
			l.donor.Freeze()
		} else {
			l.donor.Thaw()
		}
		s.d.log.Info("memory that is lent", "frozen", *settings.Frozen)
	}
	return s.Lent()
}
