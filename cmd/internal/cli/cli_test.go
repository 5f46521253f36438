package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	taken := Failure("stop it first", "socket is taken")
	unknown := Misuse("see --help", "unknown flag --colour")
	unknown.Excerpt = "3| colour = 1\n | ^\n"
	tests := []struct {
		name string
		err  error
		text string
		code int
	}{
		{"none", nil, "", ExitDone},
		{"plain", errors.New("disk is gone"), "error: disk is gone\n", ExitFailed},
		{"failure", taken, "error: socket is taken\nhint: stop it first\n", ExitFailed},
		{"misuse", unknown, "error: unknown flag --colour\n3| colour = 1\n | ^\nhint: see --help\n", ExitUsage},
		{"wrapped", fmt.Errorf("start: %w", taken), "error: start: socket is taken\nhint: stop it first\n", ExitFailed},
		{"joined", errors.Join(taken, unknown), "error: socket is taken\nhint: stop it first\n" +
			"error: unknown flag --colour\n3| colour = 1\n | ^\nhint: see --help\n", ExitUsage},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			code := Report(&out, test.err)
			if out.String() != test.text || code != test.code {
				t.Errorf("Report gave code %d and\n%swant code %d and\n%s", code, out.String(), test.code, test.text)
			}
		})
	}
}

func TestBytes(t *testing.T) {
	tests := []struct {
		n    uint64
		want string
	}{
		{0, "0 B"}, {1023, "1023 B"}, {1024, "1 KiB"}, {1536, "1.5 KiB"},
		{1<<20 - 1, "1 MiB"}, {1 << 20, "1 MiB"}, {20 << 30, "20 GiB"}, {1<<64 - 1, "16 EiB"},
	}
	for _, test := range tests {
		if got := Bytes(test.n); got != test.want {
			t.Errorf("Bytes(%d) = %q, want %q", test.n, got, test.want)
		}
	}
}
