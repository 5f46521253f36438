// Package scripts tests tmemd and tmemctl as programs: testdata holds one script
// for each story, with what is typed and what is printed. There is no other code
// here.
package scripts
