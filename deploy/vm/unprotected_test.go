//go:build e2e && unprotected

package vm

import "testing"

// The run of TestSwapToOwnHost with the daemon's protections off. What becomes of it is not ours to promise: it is run by hand, to
// see what the protections are for, and says whether the guest hung.
func TestSwapToOwnHostUnprotected(t *testing.T) {
	for _, series := range kernels() {
		t.Run("linux-"+series, func(t *testing.T) {
			s := startOwnHost(t, series, AttachUnprotected)
			if err := s.ownHost(); err != nil {
				t.Logf("it failed, or hung:\n%v", err)
			} else {
				t.Log("it did not hang this time")
			}
		})
	}
}
