package tier

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/fault"
)

func TestFaultyStorage(t *testing.T) {
	s := NewFaultyStorage(newMemoryStorage(10))
	page, got := pages(1, 5), make([]byte, pageSize)
	if err := errors.Join(s.WritePages(3, page), s.ReadPages(3, got), s.Sync(), s.PunchPages(4, 1)); err != nil || !bytes.Equal(got, page) {
		t.Fatalf("without rules: %v, or wrong content", err)
	}
	var rules []fault.Rule
	for _, line := range []string{"write times=1 full", "read times=1 corrupt", "read times=1 error", "punch error", "sync error"} {
		r, err := fault.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	s.Rules.Set(rules)
	if err := s.WritePages(3, pages(1, 6)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := s.ReadPages(3, got); err != nil || bytes.Equal(got, page) {
		t.Errorf("corrupt read: %v, or nothing was corrupted", err)
	}
	for name, err := range map[string]error{"read": s.ReadPages(3, got), "punch": s.PunchPages(3, 1), "sync": s.Sync()} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.ReadPages(3, got); err != nil || !bytes.Equal(got, page) {
		t.Errorf("what failed changed the page: %v", err)
	}
}
