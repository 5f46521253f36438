package readme

import (
	"slices"
	"testing"
)

const sample = `# Title

    # before

## One

Text with # a sign, and

    $ make
    output
    # for i in 1 2; do \
          echo $i; \
      done
    east# reboot
        # deeper: output
  # less: text

### Below

    # below

## Two

    # after
`

func TestCommands(t *testing.T) {
	want := []Command{
		{"", false, "make"},
		{"", true, "for i in 1 2; do \\\n          echo $i; \\\n      done"},
		{"east", true, "reboot"},
		{"", true, "below"},
	}
	if got := Commands(Section(sample, "## One")); !slices.Equal(got, want) {
		t.Errorf("the commands are %+v, want %+v", got, want)
	}
	if got := Section(sample, "## Three"); got != "" {
		t.Errorf("a section that there is not: %q", got)
	}
}
