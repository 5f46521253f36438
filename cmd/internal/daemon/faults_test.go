package daemon

import (
	"context"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// TestFaults rehearses a full disk during an unload and a backend that fails.
func TestFaults(t *testing.T) {
	i, ctx := start(t, t.TempDir(), "--allow-faults"), context.Background()
	i.load("swap") // a backend called as the export is
	c := i.attach()
	must(t, c.WritePages(1, 0, 300))
	list, err := i.client.Faults(ctx)
	if err != nil || len(list) != 3 {
		t.Fatalf("Faults = %+v, %v", list, err)
	}
	f, err := i.client.SetFaults(ctx, "storage:swap", []string{"write times=1 full"})
	if err != nil || f.Part != "storage" || len(f.Rules) != 1 || f.Rules[0] != (admin.FaultRule{Rule: "write times=1 full"}) {
		t.Fatalf("SetFaults = %+v, %v", f, err)
	}
	must(t, i.client.Unload(ctx, "swap", quiet))
	if err := i.client.Unload(ctx, "zcache", quiet); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("Unload onto a full disk: %v", err)
	}
	// The backend of that name is gone: it means the storage now.
	if list, err = i.client.Faults(ctx); err != nil || len(list) != 2 {
		t.Errorf("Faults = %+v, %v", list, err)
	}
	if f, err = i.client.SetFaults(ctx, "swap", nil); err != nil || f.Part != "storage" || len(f.Rules) != 0 {
		t.Errorf("SetFaults = %+v, %v", f, err)
	}
	must(t, i.client.Unload(ctx, "zcache", quiet))
	must(t, c.CheckPages(1, 0, 300))

	i.load("zcache")
	_, err = i.client.SetFaults(ctx, "zcache", []string{"store error"})
	must(t, err)
	must(t, c.WritePages(2, 0, 30))
	if b := i.status().Backends[0]; b.State != "failed" || b.Pages != 0 {
		t.Errorf("a backend that fails: %+v", b)
	}
	must(t, c.CheckPages(2, 0, 30))
	// A name that is taken leaves the rules of the backend that has it.
	if _, err := i.client.Load(ctx, admin.LoadRequest{Kind: "zcache"}); err == nil {
		t.Error("loaded twice")
	}
	if list, err = i.client.Faults(ctx); err != nil || len(list) != 2 || len(list[1].Rules) != 1 || list[1].Rules[0].Fired != 1 {
		t.Errorf("Faults = %+v, %v", list, err)
	}
	must(t, c.Close())
	i.stop()
}

func TestFaultErrors(t *testing.T) {
	ctx := context.Background()
	i := start(t, t.TempDir(), "--allow-faults")
	i.load("swap")
	for _, test := range []struct{ target, rule, text string }{
		{"tape", "any error", "error: there is no backend, export or disk tape\nhint: tmemctl fault list shows what can fail\n"},
		{"swap", "any error", "error: both a backend and an export are called swap\nhint: say backend:swap or storage:swap\n"},
		{"zcache", "write error", "error: rule \"write error\": backend zcache has no operation write\nhint: OPERATION "},
		{"zcache", "load", "error: rule \"load\": it needs an operation and an action"},
	} {
		_, err := i.client.SetFaults(ctx, test.target, []string{test.rule})
		if got := reported(err); !strings.HasPrefix(got, test.text) {
			t.Errorf("%s, %s: %q, want %q", test.target, test.rule, got, test.text)
		}
	}
	i.stop()

	const refused = "error: this tmemd does not let anybody make it fail\nhint: start it with --allow-faults to rehearse failures\n"
	i = start(t, t.TempDir())
	_, err := i.client.Faults(ctx)
	if got := reported(err); got != refused {
		t.Errorf("Faults said %q", got)
	}
	_, err = i.client.SetFaults(ctx, "zcache", []string{"any error"})
	if got := reported(err); got != refused {
		t.Errorf("SetFaults said %q", got)
	}
	i.stop()
}
