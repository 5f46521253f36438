// Package view makes text of what a daemon says of itself: the screen of tmemctl
// status, and the frames of tmemctl top.
//
// cmd/internal/ctl asks the daemon and prints what [Status] and [Frame] return.
//
// Invariants:
//
//	V1  Everything here is a function of its arguments: no clock, no terminal, no
//	    environment is asked but by [ScreenOf].
//	V2  No line is wider than the screen, if it has a width, and a frame is as high.
//	    Columns are left out by rank; status says which.
//	V3  Colours are an addition: without them nothing is missing.
//	V4  What others chose (reasons, names in certificates) brings no control
//	    characters to a terminal.
//
// # Words
//
// A page goes out when a client swaps it out, and comes in when it is swapped in.
// Out are the pages that a backend took or every backend refused; while no backend
// is loaded, those that storage wrote. In are the pages that backends or storage
// delivered.
//
// Rates are differences of two samples. The daemon keeps no averages: they would
// cost it a clock that ticks while nobody looks.
//
// Not promised: that what is printed stays as it is; --json is the interface.
package view
