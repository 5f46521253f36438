// Package samefilled keeps pages that are one 4-byte value throughout in their
// handles, where they cost no memory.
//
// Backends call it. A handle is
//
//	bits 0–31 value, 32–46 check, 47 set
//
// so a backend that uses it has bits 0 to 46 for handles of its own. The check binds
// the value to the page: see [Value].
//
// Pages filled with a longer value exist, but of those that are not zero fewer
// than 1 in 100 in practice, and lz4 makes 40 bytes of them.
package samefilled
