package ctl

import (
	"io"

	"github.com/spf13/cobra"
)

// Tree is every command of tmemctl with its flags, for manual pages. It is not to be run.
func Tree(version string) *cobra.Command {
	t := &tool{out: io.Discard, log: io.Discard}
	root := t.root(version)
	root.InitDefaultHelpFlag()
	root.InitDefaultCompletionCmd()
	return root
}
