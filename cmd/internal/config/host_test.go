package config

import (
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/protect"
)

func TestHostSettings(t *testing.T) {
	tests := []struct {
		text    string
		protect protect.Mode
		touch   bool
		wrong   string
	}{
		{"", protect.Auto, false, ""},
		{"[host]\nprotect = \"on\"\ntouch = true\n", protect.On, true, ""},
		{"[host]\nprotect = \"off\"\n", protect.Off, false, ""},
		{"[host]\nprotect = \"yes\"\n", "", false, `tmemd.toml:2: host.protect: "yes" is no mode`},
		{"[host]\ntouch = 1\n", "", false, "a value of type integer is not expected here"},
	}
	for _, test := range tests {
		c, err := parseText(t, t.TempDir(), test.text)
		if test.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), test.wrong) {
				t.Errorf("%q: %v", test.text, err)
			}
			continue
		}
		if err != nil || c.Protect != test.protect || c.Touch != test.touch {
			t.Errorf("%q: %+v, %v", test.text, c, err)
		}
	}
}
