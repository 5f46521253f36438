// Package pageindex is tables from page numbers to words of 64 bits, in memory
// outside the Go heap.
//
// Backends that have to find a page by its number call it: a donor of memory for the
// pages of others, the owner of pages on other hosts for its own. What a word says is
// theirs; 0 says that there is none.
//
// A [Table] is for one pool or export. It is a radix tree of nodes of 4 KiB, which
// many tables take from one [Space]: a region cut into nodes, with a limit. A leaf
// has the words of 512 pages; above it are as many levels of nodes as the highest
// page that was ever set asks for:
//
//	pages below      levels above the leaves
//	2^18 (1 GiB)     1
//	2^27 (512 GiB)   2
//	2^36, 2^40       3, 4
//
// So dense pages cost 8 bytes each, and a 512th of that; a page on its own costs a
// leaf and, far from others, the nodes above it.
//
// # Invariants
//
//	P1  Get returns what the last Set of the page was given, or 0. Words are read and
//	    written as a whole. Who writes one page is serialised by the caller; pages are
//	    independent of each other, whatever leaf they share.
//	P2  A node belongs to one table, or is free and all zeros. A leaf whose last word
//	    became 0 is free at once. Nodes above the leaves stay until Free.
//	P3  The nodes in use are never more than the limit, unless SetLimit was below
//	    them: then none is added. Set that needs one returns false and changes
//	    nothing but that nodes above the leaf may be there.
//	P4  Space.Bytes is the nodes in use and those that are kept for reuse, 1 MiB at
//	    most; the memory of all others is back with the system, unless Touch took it.
//	    Table.Bytes, and the account that the table was given, is its nodes.
//	P5  No call allocates on the Go heap but NewSpace and NewTable.
//
// # States of a node
//
//	state     | memory                 | left by
//	never     | none                   | take, past the bump index
//	used      | a table's              | give
//	warm      | zeros                  | take; give beyond 1 MiB makes it cold
//	cold      | none                   | take
//
// # Locks
//
//	stripe    one of 256, by table and leaf: guards the leaf, its count and the word
//	          that leads to it
//	table.mu  held to add nodes above the leaves; what was added is found without it
//	space.mu  guards the lists of free nodes and the limit
//
// In this order; never two stripes. Memory is given back to the system (a system
// call) without the space's lock.
//
// # Not promised
//
// That a table outlives the process: it is made anew of what it leads to. That Range
// shows what comes or goes while it runs.
package pageindex
