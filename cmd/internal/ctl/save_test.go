package ctl

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/saved"
)

// keeper is a daemon that has one export to save, and keeps what is restored.
type keeper struct {
	admin.Service // nothing else is asked
	file          []byte
	cut           int // bytes that are left out at the end of a save
	fails         bool
	restored      []byte
}

func (k *keeper) SaveExport(_ context.Context, _ string, to io.Writer) error {
	_, err := to.Write(k.file[:len(k.file)-k.cut])
	if k.fails {
		return errors.Join(err, &admin.Error{Status: 500, Message: "page 7 is damaged", Hint: "mend it"})
	}
	return err
}

func (k *keeper) RestoreExport(_ context.Context, into admin.CreateRequest, from io.Reader) (admin.Export, error) {
	var err error
	k.restored, err = io.ReadAll(from)
	return admin.Export{Name: into.Name, SizeBytes: 1 << 20}, err
}

func savedFile(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := saved.NewWriter(&b, saved.Header{Name: "name-of-a-machine", Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for page := range uint64(100) {
		if err := w.Page(page, backends.Packed{Encoding: backends.EncodingRaw, Data: bytes.Repeat([]byte("secret!"), 500)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestSaveAndRestoreFiles: files appear whole or not at all, encrypted if there is a key,
// and nothing that is not whole is sent to a daemon.
func TestSaveAndRestoreFiles(t *testing.T) {
	k := &keeper{file: savedFile(t)}
	socket := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := admin.NewServer(k, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	command := func(want int, told string, args ...string) {
		t.Helper()
		var out, problems bytes.Buffer
		code := Command(append([]string{"--socket", socket, "export"}, args...), "v0.1.0", &out, &problems)
		if all := out.String() + problems.String(); code != want || !strings.Contains(all, told) {
			t.Errorf("%v: exit %d, %q; want %d, %q", args, code, all, want, told)
		}
	}
	write := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := "AGE-SECRET-KEY-184JMZMVQH3E6U0PSL869004Y3U2NYV7R30EU99CSEDNPH02YUVFSZW44VU"
	write("key", []byte("# made for a test\n"+key+"\n"))
	write("passphrase", []byte("another passphrase\n"))
	write("bad key", []byte("short"))

	command(0, "saved export vm1: 400 KiB of pages", "save", "vm1", path("plain"))
	command(1, "exists", "save", "vm1", path("plain"))
	command(0, "saved", "save", "vm1", path("plain"), "--overwrite")
	command(0, `"encrypted": true`, "save", "vm1", path("sealed"), "--key-file", path("key"), "--json")
	command(1, "neither a key", "save", "vm1", path("x"), "--key-file", path("bad key"))
	command(1, "no such file", "save", "vm1", path("nowhere/x"))
	if text, err := os.ReadFile(path("plain")); err != nil || !bytes.Equal(text, k.file) {
		t.Errorf("the file is another one: %v", err)
	}
	if text, err := os.ReadFile(path("sealed")); err != nil || bytes.Contains(text, []byte("secret!")) || bytes.Contains(text, []byte("name-of-a-machine")) {
		t.Errorf("the encrypted file can be read: %v", err)
	}
	k.cut = 1
	command(1, "no whole saved export", "save", "vm1", path("x"))
	k.cut, k.fails = 100, true
	command(1, "page 7 is damaged", "save", "vm1", path("x"))
	k.cut, k.fails = 0, false

	write("cut", k.file[:len(k.file)-1])
	write("nothing", nil)
	for _, refused := range [][]string{
		{"it is not whole", "cut"},
		{"not a saved export", "nothing"},
		{"it is encrypted", "sealed"},
		{"it is not encrypted", "plain", "--key-file", path("key")},
		{"cannot be restored", "sealed", "--key-file", path("passphrase")},
		{"no such file", "absent"},
	} {
		command(1, refused[0], append([]string{"restore", "vm2", path(refused[1])}, refused[2:]...)...)
		if k.restored != nil {
			t.Errorf("%s: something was sent", refused[1])
		}
	}
	for _, good := range [][]string{{"plain"}, {"sealed", "--key-file", path("key")}} {
		k.restored = nil
		command(0, "restored export vm2", append([]string{"restore", "vm2", path(good[0])}, good[1:]...)...)
		if !bytes.Equal(k.restored, k.file) {
			t.Errorf("%s: %d bytes were sent of %d", good[0], len(k.restored), len(k.file))
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 7 {
		t.Errorf("%d files are left, with %v: %v", len(left), left, err)
	}
}
