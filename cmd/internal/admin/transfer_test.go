package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func (s *fakeService) SaveExport(_ context.Context, name string, to io.Writer) error {
	switch name {
	case "none":
		return &Error{Status: http.StatusNotFound, Message: "there is no export none", Hint: "look"}
	case "empty":
		return nil
	case "torn":
		_, err := to.Write([]byte("half"))
		return errors.Join(err, &Error{Status: http.StatusInternalServerError, Message: "page 7 is damaged: „7“\nreally", Hint: "mend it"})
	}
	_, err := to.Write(bytes.Repeat([]byte(name), 100_000))
	return err
}

func (s *fakeService) RestoreExport(_ context.Context, into CreateRequest, from io.Reader) (Export, error) {
	if into.Name == "refused" {
		_, err := io.ReadFull(from, make([]byte, 10))
		return Export{}, errors.Join(err, &Error{Status: http.StatusConflict, Message: "no room", Hint: "make some"})
	}
	all, err := io.ReadAll(from)
	return Export{Name: into.Name, SizeBytes: int64(len(all)), Writethrough: into.Writethrough + into.Storage + strings.Join(into.Allow, "")}, err
}

func (s *fakeService) MoveExport(_ context.Context, name string, r MoveExportRequest, report func(ExportMove)) (ExportMove, error) {
	if name == "none" {
		return ExportMove{}, &Error{Status: http.StatusNotFound, Message: "there is no export none", Hint: "look"}
	}
	report(ExportMove{Export: name, To: r.To, Round: 1, Left: 5})
	if name == "stuck" {
		return ExportMove{}, &Error{Status: http.StatusConflict, Message: "too fast", Hint: "slow down"}
	}
	return ExportMove{Export: name, To: r.To, Round: 2, PauseMS: 1.5}, nil
}

func TestMoveExport(t *testing.T) {
	c := NewClient(start(t, &fakeService{}, nil))
	defer c.Close()
	ctx := context.Background()
	rounds := 0
	done, err := c.MoveExport(ctx, "vm1", MoveExportRequest{To: "tcp://b:1"}, func(e ExportMove) { rounds += e.Round })
	if err != nil || !done.Done || done.PauseMS != 1.5 || done.To != "tcp://b:1" || rounds != 3 {
		t.Errorf("%+v, %v, %d", done, err, rounds)
	}
	for name, want := range map[string]string{"none": "there is no export none", "stuck": "too fast"} {
		if _, err := c.MoveExport(ctx, name, MoveExportRequest{}, func(ExportMove) {}); err == nil || err.Error() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTransfers: streams longer than any other request may be, and how they end.
func TestTransfers(t *testing.T) {
	c := NewClient(start(t, &fakeService{}, nil))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var b bytes.Buffer
	if err := c.SaveExport(ctx, "vm 1/a", &b); err != nil || b.String() != strings.Repeat("vm 1/a", 100_000) {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
	if err := c.SaveExport(ctx, "empty", io.Discard); err != nil {
		t.Error(err)
	}
	if err := c.SaveExport(ctx, "none", io.Discard); err == nil || err.Error() != "there is no export none" {
		t.Errorf("refused: %v", err)
	}
	if err := c.SaveExport(ctx, "torn", io.Discard); err == nil || err.Error() != "page 7 is damaged: „7“\nreally" {
		t.Errorf("failed on its way: %v", err)
	}
	e, err := c.RestoreExport(ctx, CreateRequest{Name: "vm 1", Storage: "/a b", Writethrough: "sync", Allow: []string{"uid:1", "uid:2"}}, io.LimitReader(zeroes{}, 20<<20))
	if err != nil || e.Name != "vm 1" || e.SizeBytes != 20<<20 || e.Writethrough != "sync/a buid:1uid:2" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := c.RestoreExport(ctx, CreateRequest{Name: "refused"}, io.LimitReader(zeroes{}, 20<<20)); err == nil || err.Error() != "no room" {
		t.Errorf("refused on its way: %v", err)
	}
	broken := errors.New("the disk is broken")
	if _, err := c.RestoreExport(ctx, CreateRequest{Name: "vm"}, io.MultiReader(io.LimitReader(zeroes{}, 1<<20), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("a file that cannot be read: %v", err)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
