// Package packed makes pages of what [backends.Backend.Pack] returns, and of what
// somebody else may have put in its place.
//
// Backends call it to see that a page is what it claims to be before they take it in
// as it is, and tier to save and restore exports.
//
// # Invariants
//
//	P1  Decode succeeds for a page that has the checksum, and for nothing else. Any
//	    bytes may be given.
//	P2  No length in the data is believed: what would decode to more than a page is
//	    refused, and nothing beyond a page is written or allocated for it.
//
// # Not promised
//
// That it was packed for this page: a packed page does not say which it is. Whoever
// keeps it has to bind it to its number.
package packed
