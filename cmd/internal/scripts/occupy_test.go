package scripts

import (
	"net"

	"github.com/rogpeppe/go-internal/testscript"
)

func occupy(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}
