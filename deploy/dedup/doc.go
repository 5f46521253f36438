// Command dedup measures what zcache saves at most when it stores identical pages of one client once. That zcache
// can, and by default does not, was decided by this. make bench-dedup runs it, as root, in about five minutes.
//
// It compresses each page as zcache does ([zcache.Judge]), takes the size of the arena's slot, and
// counts slots of equal content (SHA-256) once. 16 bytes for each distinct object are counted against it: an index
// from content to object, which the page map and the arena do without.
//
//	gain = (held − held once − index) / held
//
// # What is measured
//
//	processes of this host   a Django site with four workers that gunicorn forked, after loading the site or before, visited
//	                         by users with random names; four Pythons and four Nodes that were started one by one and hold
//	                         other files each
//	guests of one image      QEMU machines that boot the same image, with a Django site of three forked workers and two Pythons
//	                         of their own, and swap to an export each
//	clones                   the same, started from the saved state of one running guest, as hosts of short-lived
//	                         functions do; then each gets visitors of its own
//
// Each guest works, has all its programs' memory swapped out (memory.reclaim), is counted, and works on: three phases.
//
// # What was seen
//
// On Linux 6.18 with Debian 12's Python 3.11, Django 3.2, gunicorn 20.1, and Node; guests of Debian's 6.12. Gain as above, index
// counted; by the sizes of lz4, and of zstd after recompression.
//
//	                                                   objects  KiB, lz4   gain    cold
//	Django, 4 workers forked from the loaded site
//	  after 100 visits                                  22,717    36,401   30.4 %  30.2 %
//	  400                                               23,783    37,978   26.7 %  26.7 %
//	  1,600                                             27,647    43,995   23.2 %  23.5 %
//	  6,000                                             51,054    77,655   31.8 %  33.2 %
//	the same with gc.freeze() before the fork, 400      25,877    40,679   25.4 %  25.6 %
//	each worker loads the site after the fork
//	  after 100 visits                                  36,669    57,425   20.6 %  19.9 %
//	  400                                               37,755    59,026   20.4 %  19.7 %
//	  6,000                                             53,720    83,891   14.2 %  14.2 %
//	4 Pythons, each started by itself                   31,774    38,766   −0.6 %  −1.2 %
//	4 Nodes, each started by itself                     18,433    24,550   −0.2 %  −0.8 %
//	3 guests of one image, each with a forked site      87,524   142,033   17.3 %  17.7 %
//	  of that, pages that several guests have                           0.3–0.7 %
//	3 clones of one running guest
//	  24 visits after the cloning                       87,617   142,144   68.0 %  68.0 %
//	  72 visits after it                                89,395   144,866   66.6 %  66.5 %
//	  180 visits after it                               91,687   148,055   64.8 %  64.8 %
//	  of that, pages that several clones have                             48–52 %
//
// Identical content takes identical addresses: a fork keeps them, as does a clone of a running machine, and a new process
// does not. The kernel has copied a page for each worker that wrote to it, if only a reference count, and many of the
// copies have become the same; gc.freeze() changes little about it. Guests that booted from one image have nothing in
// common that swap would see: 0.3 to 0.7 % is less than the index takes.
//
// # Invariants
//
//	D1  What is counted is what is a page to swap: a frame that processes share after a fork is one. On this host
//	    that is by the frame's number, in guests by having the guest's kernel swap.
//	D2  Only anonymous memory counts. A guest's files are in a ramfs, which is never swapped, and the guest says how much tmpfs it
//	    has: none.
//	D3  Same-filled pages, which cost nothing already, and pages that zcache would refuse count on neither side.
//	D4  Nothing is alike because of a seed: names of visitors and what interpreters hash with are drawn anew for
//	    each machine (clones have what they were cloned with, and draw names anew), and no two programs read the same files but for the same program of each guest.
//	D5  Processes that were started end with the command, also one that is killed.
//
// # Not promised
//
// The share of such programs on a real host. Stale slots of a guest are not told from live ones: an export holds
// both, so both count. Figures that are the same in two runs; differences were up to two hundredths.
package main
