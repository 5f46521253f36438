package corpus

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// shell is a program that runs a shell script.
func shell(script string, floor int) program {
	return program{floor: floor, ceiling: floor, command: func(context.Context, string) (*exec.Cmd, error) {
		return exec.Command("sh", "-c", script), nil
	}}
}

func TestProgram(t *testing.T) {
	for _, test := range []struct {
		name   string
		script string
		floor  int // MiB of heap to wait for
		want   string
	}{
		{"sampled", "x=sampled; while :; do x=$x$x; done", 2, ""},
		{"ends by itself", "exit 3", 1, "ended when its heap had"},
		{"starts others", "sleep 1000 & sleep 1000 & exit", 1, "ended when its heap had"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &collection{want: 64}
			err := shell(test.script, test.floor).sample(t.Context(), c, 0, t.TempDir(), rand.New(rand.NewPCG(1, 1)))
			switch {
			case test.want == "" && (err != nil || c.collected != 64):
				t.Errorf("%d pages, error %v", c.collected, err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want %q", err, test.want)
			}
			if left := children(t); len(left) > 0 {
				t.Errorf("P3: processes left: %q", left)
			}
		})
	}
}

func TestProgramMissing(t *testing.T) {
	k := kind{tools: []string{"sh", "no-such-command"}}
	if got, want := k.missing(), "no-such-command is not installed"; got != want {
		t.Errorf("missing %q, want %q", got, want)
	}
	if got := (kind{tools: []string{"sh"}}).missing(); got != "" {
		t.Errorf("sh is missing: %q", got)
	}
	c := &collection{want: 1}
	p := program{command: interpreted("x", "", "no-such-command")}
	if err := p.sample(t.Context(), c, 0, t.TempDir(), rand.New(rand.NewPCG(1, 1))); err == nil {
		t.Error("a command that does not exist was sampled")
	}
}
