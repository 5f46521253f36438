// Package readme finds the commands in documentation, so that tests run what users are told to type. Tests in deploy use it.
//
// A command is on a line of an indented block that begins with a prompt: "$ " for anybody, "# " for root, "HOST# " for root on
// one of several hosts. A line that ends in a backslash goes on in the next. What has no prompt is what a command prints.
//
// Its own tests, part of `make interop`, type README.md on machines of their own (package isolated): a new user's five minutes in a
// clone, and what is shown to an operator, section by section, each with the configuration that it shows. What is for the kernel
// (modules, devices, swap) and for systemd is typed in a virtual machine, by deploy/vm.
//
// # Invariants
//
//	R1  Commands are typed as they stand. What is put in their place (a process id), and what is left out, is in a list with the
//	    reason.
//	R2  Each command of README.md is in a section that a test types; a section that is new and in no list is an error.
//
// # Not promised
//
// Lists with commands, fenced blocks, prompts in the middle of a line. That all of what a command prints is as shown: numbers are
// those of some machine.
package readme
