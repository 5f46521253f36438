// Package documents is a test: every command, flag, setting, make target, test and file that README.md and the other documents
// for users name is one that there is. It asks tmemctl's command tree and tmemd's parser, so a document cannot go on about what was
// renamed. Nobody imports it.
//
// Not promised: that a command does what the document says. Those are typed as they stand, by deploy/readme, deploy/examples and
// deploy/vm.
package documents
