// Package fault makes a backend or a storage fail on demand, so that operators
// can rehearse failures and tests can provoke them. A daemon loads it only when
// it is started with fault injection allowed.
//
// [Rules] say what fails: a list that can be replaced at any time. [Backend]
// puts rules between frontswap and a backend; the tier has the same for
// storage.
//
// # Rules
//
// A rule is written as words, the operation first:
//
//	OPERATION [pages=FIRST-LAST] [every=N] [times=N] ACTION
//
//	operation  store, load, read, write, punch, sync, or any
//	pages      only these page numbers, of any export; default all
//	every      only each Nth of the operations that match so far; default 1
//	times      only N times, then never again; default for ever
//	action     refuse       the backend takes no such page (store only)
//	           error        EIO, for good: a backend is taken out of use
//	           transient    EIO, this time
//	           full         ENOSPC (write only)
//	           corrupt      a bit of the data is flipped on its way (load, read)
//	           gone         the cached page of a disk was forgotten (load only); one
//	                        of swap never is, and is loaded as ever
//	           delay=TIME   it takes that much longer, then goes on to the next rule
//
// The first rule that matches decides; delays add up before it.
//
// # Invariants
//
//	X1  Without a rule that matches, every call goes through unchanged.
//	X2  A rule counts its own matches only: another rule does not disturb it.
//	X3  Data that the caller passes in is never changed; only what is handed out.
//
// # Not promised
//
// Speed: each call takes a lock. A delayed backend is not local any more, so
// one with rules never reports itself as local.
package fault
