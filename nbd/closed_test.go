package nbd

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// TestClosedExport: nobody gets into an export that is closed, and who may know is told
// why; its clients are cut, those of others are not.
func TestClosedExport(t *testing.T) {
	nobody := &Access{}
	s := startServer(t, Config{Exports: []Export{
		{Name: "swap", Device: newMemoryDevice(1 << 20)},
		{Name: "other", Device: newMemoryDevice(1 << 20)},
		{Name: "gone", Refusal: "moved to unix:///elsewhere"},
		{Name: "secret", Refusal: "moved to somewhere secret", Access: nobody},
	}})
	client, bystander := s.attached(t, "swap"), s.attached(t, "other")
	if err := s.CloseExport("swap", "being saved"); !errors.Is(err, ErrExportInUse) {
		t.Fatalf("closed under its client: %v", err)
	}
	client.readBack(0, 16)
	refused := func(name, want string) {
		t.Helper()
		c := s.greeted(t, 3)
		for _, id := range []uint32{optInfo, optGo} {
			c.send(option(id, infoData(name)))
			if text := string(c.expectReply(id, replyErrPolicy)); text != want {
				t.Errorf("%s: %q, want %q", name, text, want)
			}
		}
	}
	if err := s.CutExport("swap", "moved to tcp://b:10809"); err != nil {
		t.Fatal(err)
	}
	client.expectClosed()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.AwaitCut(ctx, "swap"); err != nil {
		t.Fatal(err)
	}
	refused("swap", "moved to tcp://b:10809")
	refused("gone", "moved to unix:///elsewhere")
	stranger := s.greeted(t, 3)
	stranger.send(option(optGo, infoData("secret")))
	stranger.expectReply(optGo, protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN) // as if there were none
	bystander.readBack(0, 16)
	if err := s.OpenExport("swap"); err != nil {
		t.Fatal(err)
	}
	s.attached(t, "swap").readBack(0, 16)
	for _, err := range []error{s.CloseExport("nothing", "x"), s.CutExport("nothing", "x"), s.OpenExport("nothing")} {
		if !errors.Is(err, ErrExportUnknown) {
			t.Errorf("an export that there is not: %v", err)
		}
	}
	if err := s.RemoveExport("gone"); err != nil {
		t.Error(err)
	}
}
