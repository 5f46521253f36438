// Package observebench measures what it costs requests to be watched: the same daemon, in
// turn, alone, and with its metrics scraped (compressed, as Prometheus asks for them) and its
// status page open, each once a second. It has nothing but benchmarks: make bench-observe.
//
// The watchers run on the same machine as the client and the daemon, so what they spend
// themselves is in the figure too. Cells of two seconds alternate, and who is first alternates
// too; the figure is the median of the rounds' ratios, with the interval that has the true median
// with 95 % certainty (of the sign test). On a machine with others on it look at the best quarters,
// and at the processor time of a scrape and a view, which is there once a second. TMEMD_OTHER=PATH compares with another program
// instead: both are unwatched then.
//
// BenchmarkDips is the finer one: under load without a pause it compares the fifth of a second after
// each look with the fifth before it, which what others do disturbs much less, and does the same where
// there was no look.
//
// What it is held to: 1 % at most. Timing is never asserted.
package observebench
