package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// talk has a stand-in for QEMU give its answers, one for each command, and returns the commands.
func talk(t *testing.T, do func(context.Context, *monitor) error, answers ...string) (commands []string, err error) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "monitor")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "QEMU monitor\r\n(qemu) ")
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			commands = append(commands, lines.Text())
			if len(answers) == 0 {
				return
			}
			fmt.Fprintf(conn, "%s\r\n%s\r\n(qemu) ", lines.Text(), answers[0])
			answers = answers[1:]
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	m, err := openMonitor(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	err = do(ctx, m)
	m.conn.Close()
	<-ended
	return commands, err
}

// A clone goes on when it has all of the saved state, not before.
func TestResume(t *testing.T) {
	resume := func(ctx context.Context, m *monitor) error { return m.resume(ctx) }
	commands, err := talk(t, resume, "VM status: paused (inmigrate)", "VM status: paused", "")
	if want := []string{"info status", "info status", "cont"}; err != nil || !slices.Equal(commands, want) {
		t.Errorf("commands %q, error %v, want %q", commands, err, want)
	}
	if _, err := talk(t, resume); err == nil {
		t.Error("a monitor that ends is no error")
	}
}

func TestSaveState(t *testing.T) {
	save := func(ctx context.Context, m *monitor) error { return m.saveState(ctx, "/a/file") }
	commands, err := talk(t, save, "", "", "", "Migration status: active", "Migration status: completed", "")
	want := []string{"stop", "migrate_set_parameter max-bandwidth 10G", `migrate -d "exec:cat >/a/file"`, "info migrate", "info migrate", "cont"}
	if err != nil || !slices.Equal(commands, want) {
		t.Errorf("commands %q, error %v, want %q", commands, err, want)
	}
	if _, err := talk(t, save, "", "", "", "Migration status: failed"); err == nil || !strings.Contains(err.Error(), "failed") {
		t.Errorf("of a state that could not be saved: error %v", err)
	}
}

// What a guest swapped out is counted without the swap's header.
func TestSwapDeviceCount(t *testing.T) {
	d := &swapDevice{data: make([]byte, 8*pageSize)}
	for page, number := range []byte{9, 1, 1, 2} {
		if _, err := d.WriteAt(text(number), int64(page)*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Trim(3*pageSize, pageSize); err != nil {
		t.Fatal(err)
	}
	c, err := d.count()
	if err != nil {
		t.Fatal(err)
	}
	g := c.gain()
	if got, want := [4]int{g.Pages, g.SameFilled, g.Stored, g.Distinct}, [4]int{7, 5, 2, 1}; got != want {
		t.Errorf("pages, same-filled, stored, distinct: %v, want %v", got, want)
	}
}
