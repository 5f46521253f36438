//go:build race

package protect

// The race detector's own memory grows with what is allocated.
const faultsOfOthers = 4096
