//go:build !race

package protect

// The runtime's own books, and those of a test, grow too.
const faultsOfOthers = 256
