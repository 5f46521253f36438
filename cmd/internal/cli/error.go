package cli

import (
	"errors"
	"fmt"
	"io"
)

// The exit codes of both commands.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// Error is an error for a human: what is wrong, and what to do about it.
type Error struct {
	Problem string // one line, lower case, no full stop
	Excerpt string // lines of the file that is wrong, may be empty
	Hint    string // the cure, may be empty
	Usage   bool   // the asking was wrong: exit with ExitUsage
}

// Error returns the problem alone, for logs.
func (e *Error) Error() string { return e.Problem }

// Failure is an error at run time with a cure.
func Failure(hint, format string, args ...any) *Error {
	return &Error{Problem: fmt.Sprintf(format, args...), Hint: hint}
}

// Misuse is an error in how the command was called, with a cure.
func Misuse(hint, format string, args ...any) *Error {
	return &Error{Problem: fmt.Sprintf(format, args...), Hint: hint, Usage: true}
}

// Report prints err as "error: ..." and "hint: ..." lines and returns the exit
// code that belongs to it. Errors joined by errors.Join are printed one by one;
// one of them being a misuse makes the whole a misuse.
func Report(w io.Writer, err error) int {
	if err == nil {
		return ExitDone
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		code := ExitFailed
		for _, e := range joined.Unwrap() {
			code = max(code, Report(w, e))
		}
		return code
	}
	fmt.Fprintf(w, "error: %v\n", err)
	var e *Error
	if !errors.As(err, &e) {
		return ExitFailed
	}
	if e.Excerpt != "" {
		fmt.Fprint(w, e.Excerpt)
	}
	if e.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", e.Hint)
	}
	if e.Usage {
		return ExitUsage
	}
	return ExitFailed
}
