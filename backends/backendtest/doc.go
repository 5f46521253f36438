// Package backendtest tests backends, and helps to test what calls them. Only
// tests import it.
//
//   - [Run] is the conformance suite. A backend that passes it keeps the rules
//     of package backends, as far as a test can tell; a failure names the rule.
//     [RunAllocations] is the part that the reference backend is excused from.
//   - [RunHosted] is the same for a backend that turns to its [backends.Host];
//     [Host] is the one that it meets there, and serves other tests of such
//     backends: it reads, writes and evicts as frontswap does, and checks.
//   - [RunEphemeral] is the same for a backend that keeps pages of ephemeral exports.
//   - [RunSurvivor] is the same for a backend whose pages outlive the process.
//   - [Map] is the reference backend, and stands in for a real one elsewhere:
//     it refuses, fails, lies or waits on demand, and reports callers that break
//     the contract.
//   - [Page] and [Mixed] make pages with the look of real ones, from a seed.
//
// # Writing a backend's test
//
//	func TestConformance(t *testing.T) {
//		backendtest.Run(t, func(t *testing.T) backends.Backend {
//			b, err := example.New(example.Config{Limit: 10 << 20})
//			if err != nil {
//				t.Fatal(err)
//			}
//			return b
//		})
//	}
//
// The suite closes what the function makes. It needs room for at least 8 MiB of
// pages, and no other user of what is behind the backend. A limit of not much
// more lets it test what happens there.
//
// # What the suite does not show
//
// That damaged memory is found out: only the backend's own tests can reach into
// its memory. That nothing blocks: timing is never asserted. That memory is
// given back while pages are left.
package backendtest
