package metrics

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tmemd/tmemd/frontswap"
)

// What is shown of clients: who exports belong to.
var (
	clientWeight      = describe("client_weight", "The client's part of memory that is not reserved, by comparison with the others.", "client")
	clientCap         = describe("client_cap_bytes", "Memory that its pages may take at most; 0 means no limit.", "client")
	clientReservation = describe("client_reservation_bytes", "Memory that nobody else can push it below, as it was set.", "client")
	clientKept        = describe("client_reservation_kept_bytes", "Of the reservation, what backends can keep now.", "client")
	clientFrozen      = describe("client_frozen", "1 while none of its pages is stored.", "client")
	clientCharged     = describe("client_charged_bytes", "Memory of this host that its pages take.", "client")
	clientShare       = describe("client_share_bytes", "What it is due if all clients want theirs; +Inf if there is no limit.", "client")
	clientPages       = describe("client_pages", "Pages of it that backends have.", "client")
	clientExports     = describe("client_exports", "Its exports.", "client")
	clientPromised    = describe("client_promised_bytes", "The sizes of its exports together.", "client")
	clientRefused     = describe("client_refused_total", "Pages of it that were not offered to a backend: it is at its cap, frozen, or above its share while memory is short.", "client", "reason")
	clientEvicted     = describe("client_evicted_total", "Pages of it that were moved on to make room, or for its cap.", "client")
	exportCharged     = describe("export_charged_bytes", "Memory of this host that the export's pages take.", "export")

	clientDescriptions = []*prometheus.Desc{
		clientWeight, clientCap, clientReservation, clientKept, clientFrozen, clientCharged, clientShare, clientPages, clientExports,
		clientPromised, clientRefused, clientEvicted, exportCharged,
	}
)

func (e emitter) client(c frontswap.ClientStatus) {
	share := math.Inf(1)
	if c.Due < math.MaxUint64 {
		share = float64(c.Due)
	}
	e.gauge(clientWeight, float64(c.Quota.Weight), c.Name)
	e.gauge(clientCap, float64(c.Quota.Cap), c.Name)
	e.gauge(clientReservation, float64(c.Quota.Reservation), c.Name)
	e.gauge(clientKept, float64(c.Reserved), c.Name)
	e.gauge(clientFrozen, truth(c.Frozen), c.Name)
	e.gauge(clientCharged, float64(c.Used), c.Name)
	e.gauge(clientShare, share, c.Name)
	e.gauge(clientPages, float64(c.Pages), c.Name)
	e.gauge(clientExports, float64(len(c.Areas)), c.Name)
	e.gauge(clientPromised, float64(c.Promised), c.Name)
	for reason := range frontswap.ClientRefusals {
		e.counter(clientRefused, c.Refused[reason], c.Name, reason.String())
	}
	e.counter(clientEvicted, c.Evicted, c.Name)
}
