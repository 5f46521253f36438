package systemd

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	for _, name := range []string{path, "@tmemd-test" + path} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := Notify(name, "READY=1\nSTATUS=swapping"); err != nil {
			t.Fatal(err)
		}
		if err := l.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		if n, err := l.Read(b); err != nil || string(b[:n]) != "READY=1\nSTATUS=swapping" {
			t.Errorf("%s received %q, %v", name, b[:n], err)
		}
	}
	if err := Notify("", "READY=1"); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
	if err := Notify("/nonexistent/notify", "READY=1"); err == nil {
		t.Error("a service manager that is not there has heard it")
	}
}
