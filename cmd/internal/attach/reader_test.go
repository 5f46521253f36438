package attach

import (
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAwaitReaders has a reader that takes its time: it gets every byte before the wait is
// over. One that never comes does not keep anybody for ever.
func TestAwaitReaders(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	kernel, server := os.NewFile(uintptr(fds[0]), "kernel"), os.NewFile(uintptr(fds[1]), "server")
	defer kernel.Close()
	defer server.Close()
	if anyUnread([]*os.File{kernel}) {
		t.Error("something to read before there was")
	}
	late := make([]byte, 32<<10)
	if _, err := server.Write(late); err != nil {
		t.Fatal(err)
	}
	shutdown(kernel) // what was sent is there all the same
	if !anyUnread([]*os.File{kernel}) {
		t.Fatal("nothing to read though a reply is there")
	}
	awaitReaders([]*os.File{kernel}, 10*time.Millisecond)
	if !anyUnread([]*os.File{kernel}) {
		t.Fatal("the reader's bytes were taken away")
	}
	read := make(chan int)
	go func() {
		total := 0
		for range 4 {
			n, err := io.ReadFull(kernel, late[:8<<10])
			total += n
			if err != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		read <- total
	}()
	awaitReaders([]*os.File{kernel}, time.Minute)
	if anyUnread([]*os.File{kernel}) {
		t.Error("the wait was over before everything was read")
	}
	if n := <-read; n != len(late) {
		t.Errorf("the reader got %d bytes of %d", n, len(late))
	}
	awaitReaders(nil, time.Minute) // an agent that took over has no hold on the old ones
}
