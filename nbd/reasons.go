package nbd

// All reasons that Stats has counters for. They are there from the start, as zeros: who
// watches for a first time has to see the step.
var (
	refusedReasons = []string{refusedConnections, refusedHandshakes, refusedShutdown}
	failedReasons  = []string{
		failedTimeout, failedGone, failedFlags, failedMagic, failedOptions, failedLength, failedPlain, failedExport, failedShutdown,
		failedTLS, failedNoTLS, failedInternal,
	}
	deniedReasons = []string{deniedAnonymous, deniedCertificate, deniedCredentials}
)

// byReason is the counters of all reasons, those that never came included.
func byReason(reasons []string, counted map[string]uint64) map[string]uint64 {
	all := make(map[string]uint64, len(reasons))
	for _, reason := range reasons {
		all[reason] = 0
	}
	for reason, n := range counted {
		all[reason] = n
	}
	return all
}
