package pageindex

import (
	"sync"
	"sync/atomic"
)

const (
	// PageBits bounds page numbers: they are below 1<<PageBits.
	PageBits = 40
	MaxPages = 1 << PageBits
)

// Table is one table. Get, Set, Delete, Range, Pages and Bytes may be called from any
// goroutine, but for one page Set and Delete must not overlap.
type Table struct {
	space   *Space
	number  uint64
	account *atomic.Int64

	// root is the top node's number + 1 and, in the bits from 32 on, how many levels
	// there are with that of the leaves, 2 at least; 0 if there is none. A word in a node above
	// the leaves is a node's number + 1. Nodes above the leaves only ever come, so
	// these are read without a lock; what leads to a leaf is read with its stripe's.
	root  atomic.Uint64
	pages atomic.Int64
	nodes atomic.Int64

	mu sync.Mutex // held to add nodes above the leaves, and the root
}

// NewTable makes an empty table. The bytes of its nodes are added to account, as
// those of others may be; nil if nobody wants to know.
func (s *Space) NewTable(account *atomic.Int64) *Table {
	if account == nil {
		account = new(atomic.Int64)
	}
	return &Table{space: s, number: s.tables.Add(1), account: account}
}

// Pages is the number of words that are not 0.
func (t *Table) Pages() int64 { return t.pages.Load() }

// Bytes is the memory of the table's nodes.
func (t *Table) Bytes() int64 { return t.nodes.Load() * NodeSize }

// Get returns the page's word, or 0.
func (t *Table) Get(page uint64) uint64 {
	if page >= MaxPages {
		return 0
	}
	lock := t.lock(page)
	defer lock.Unlock()
	leaf, _ := t.find(page)
	if leaf == 0 {
		return 0
	}
	return *t.space.word(leaf-1, page%fan)
}

// Set gives the page a word; 0 takes it away. It returns false, and changes no page,
// if there is no memory for it. A page that has a word can always get another.
func (t *Table) Set(page, word uint64) bool {
	if word == 0 {
		t.Delete(page)
		return true
	}
	if page >= MaxPages {
		return false
	}
	lock := t.lock(page)
	defer lock.Unlock()
	leaf, link := t.find(page)
	if leaf == 0 {
		if link == nil {
			if link = t.grow(page); link == nil {
				return false
			}
		}
		if leaf = t.add(); leaf == 0 {
			return false
		}
		atomic.StoreUint64(link, uint64(leaf))
	}
	at := t.space.word(leaf-1, page%fan)
	if *at == 0 {
		t.space.nodes[leaf-1].count++
		t.pages.Add(1)
	}
	*at = word
	return true
}

// Delete takes the page's word away and returns it, or 0.
func (t *Table) Delete(page uint64) uint64 {
	if page >= MaxPages {
		return 0
	}
	lock := t.lock(page)
	defer lock.Unlock()
	leaf, link := t.find(page)
	if leaf == 0 {
		return 0
	}
	at := t.space.word(leaf-1, page%fan)
	word := *at
	if word == 0 {
		return 0
	}
	*at = 0
	t.pages.Add(-1)
	n := &t.space.nodes[leaf-1]
	if n.count--; n.count == 0 {
		atomic.StoreUint64(link, 0)
		t.count(-1)
		t.space.give(leaf - 1)
	}
	return word
}

// lock takes the stripe of the page's leaf.
func (t *Table) lock(page uint64) *stripe {
	const spread = 0x9e3779b97f4a7c15
	s := &t.space.locks[(page>>fanBits+t.number*7919)*spread>>(64-8)]
	s.Lock()
	return s
}

func (t *Table) count(nodes int64) {
	t.nodes.Add(nodes)
	t.account.Add(nodes * NodeSize)
}

// find returns the number + 1 of the page's leaf, or 0, and the word that leads there,
// or nil if that is not there either.
func (t *Table) find(page uint64) (leaf uint32, link *uint64) {
	root := t.root.Load()
	top, height := uint32(root), int(root>>32)
	if root == 0 || page>>(fanBits*height) != 0 {
		return 0, nil
	}
	for level := height - 1; level > 0; level-- {
		link = t.space.word(top-1, page>>(fanBits*level)%fan)
		if top = uint32(atomic.LoadUint64(link)); top == 0 && level > 1 {
			return 0, nil
		}
	}
	return top, link
}

// grow adds the nodes above the page's leaf, and returns the word that is to lead to
// it; nil if there is no memory.
func (t *Table) grow(page uint64) *uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	root := t.root.Load()
	top, height := uint32(root), int(root>>32)
	for root == 0 || page>>(fanBits*height) != 0 {
		above := t.add()
		if above == 0 {
			return nil
		}
		if root == 0 {
			for height = 2; page>>(fanBits*height) != 0; height++ {
			}
		} else {
			*t.space.word(above-1, 0) = uint64(top)
			height++
		}
		top, root = above, uint64(height)<<32|uint64(above)
		t.root.Store(root)
	}
	for level := height - 1; ; level-- {
		link := t.space.word(top-1, page>>(fanBits*level)%fan)
		if level == 1 {
			return link
		}
		if top = uint32(atomic.LoadUint64(link)); top == 0 {
			if top = t.add(); top == 0 {
				return nil
			}
			atomic.StoreUint64(link, uint64(top))
		}
	}
}

// add takes a node, and returns its number + 1, or 0.
func (t *Table) add() uint32 {
	n, ok := t.space.take()
	if !ok {
		return 0
	}
	t.count(1)
	return n + 1
}

// Range calls visit for each page from a number on that has a word, ascending, until
// it returns false. No lock is held: visit may call anything.
func (t *Table) Range(from uint64, visit func(page, word uint64) bool) {
	var words [fan]uint64
	for leaf := from >> fanBits; leaf < MaxPages>>fanBits; leaf++ {
		if leaf = t.nextLeaf(leaf); leaf >= MaxPages>>fanBits || !t.copyLeaf(leaf, &words) {
			continue
		}
		for i := range uint64(fan) {
			if page := leaf<<fanBits | i; words[i] != 0 && page >= from && !visit(page, words[i]) {
				return
			}
		}
	}
}

// copyLeaf returns false if there is no such leaf, any more.
func (t *Table) copyLeaf(leaf uint64, words *[fan]uint64) bool {
	page := leaf << fanBits
	lock := t.lock(page)
	defer lock.Unlock()
	n, _ := t.find(page)
	if n == 0 {
		return false
	}
	copy(words[:], t.space.words[uint64(n-1)*fan:][:fan])
	return true
}

// nextLeaf returns the first leaf from a number on that there may be; beyond all of
// them if there is none.
func (t *Table) nextLeaf(leaf uint64) uint64 {
	const none = MaxPages >> fanBits
	root := t.root.Load()
	height := int(root >> 32)
	if root == 0 {
		return none
	}
	for leaf>>(fanBits*(height-1)) == 0 {
		// Down to the leaf, or to where nothing is below: on behind that then.
		top, level := uint32(root), height-1
		for ; level > 0; level-- {
			if top = uint32(atomic.LoadUint64(t.space.word(top-1, leaf>>(fanBits*(level-1))%fan))); top == 0 {
				break
			}
		}
		if level == 0 {
			return leaf
		}
		step := uint64(1) << (fanBits * (level - 1))
		leaf = (leaf/step + 1) * step
	}
	return none
}

// Free gives all nodes back. The table is empty then, and may be used again. REQUIRES:
// nothing else is under way.
func (t *Table) Free() {
	if root := t.root.Swap(0); root != 0 {
		t.free(uint32(root), int(root>>32))
	}
	t.pages.Store(0)
}

func (t *Table) free(n uint32, levels int) {
	if levels > 1 {
		for i := range uint64(fan) {
			if below := uint32(*t.space.word(n-1, i)); below != 0 {
				t.free(below, levels-1)
			}
		}
	}
	t.space.wipe(n - 1)
	t.count(-1)
	t.space.give(n - 1)
}
