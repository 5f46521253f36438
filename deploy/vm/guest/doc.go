// Command guest runs inside the virtual machine of the real-kernel test: it keeps more memory in use than the machine
// has, so that the kernel swaps all the time, and verifies every byte it reads back.
//
// The init script of package vm starts it once swap is on; package orders is the language it speaks with the host.
//
// What a page must hold follows from its number, its version and the run's seed alone (content.go), so any page can be
// checked at any time, and a page that holds something else usually says what it was: an older version of
// itself, or another page.
//
// Invariants:
//
//	G1  A page and its version belong to one worker at a time; workers share nothing but counters.
//	G2  A page is compared whole before it is rewritten; a version is never used twice for one page.
//	G3  A page given back to the kernel is version 0 and must read as zeros until it is written again.
//	G4  Nothing is corrected: the first difference, or the first read the kernel refuses, ends the run.
//
// Not promised: speed, and which pages are in swap at a given moment. The kernel chooses; its counters are in each report.
package main
