package zcache

import (
	"hash/crc32"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// coldRounds is the age, in rounds, at which a page is cold. Being seen three
// times without a load between takes two whole rounds, so a round is half of
// Config.Cold.
const coldRounds = flagAge

// cold counts each object's age, and recompresses with zstd what is cold.
func (b *background) cold() {
	r := b.newReplacement()
	w := &recompressor{replacement: r, sharer: &sharer{replacement: r}}
	b.walk(func() time.Duration { return b.config.Load().Cold / 2 }, w.visit)
}

// recompressor is the working memory for recompression.
type recompressor struct {
	*replacement
	sharer *sharer
	data   [backends.PageSize]byte // the object's data
	page   [backends.PageSize]byte // the page
	out    [encodeBuffer]byte      // the page recompressed
}

func (r *recompressor) visit(ref arena.Ref) {
	o, ok := r.arena.Snapshot(ref, nil)
	if !ok || r.config.Load().Cold <= 0 {
		return
	}
	age := o.Flags & flagAge
	if age < coldRounds {
		// A load between the two takes the age back; that it may be lost makes the
		// page cold a round early.
		r.arena.Mark(ref, age+1, flagAge)
	}
	if o.Droppable || age < coldRounds || Codec(o.Codec)&^contentOf != LZ4 || o.Flags&flagSettled != 0 {
		return
	}
	start := time.Now()
	r.recompress(ref)
	// The budget: work is followed by the rest that makes it the share.
	percent := time.Duration(r.config.Load().ColdPercent)
	r.sleep(time.Since(start) * (100 - percent) / percent)
}

// recompress replaces the object by a smaller one. If there is none, or the gain
// is less than a sixteenth, the object is marked and left alone from then on.
func (r *recompressor) recompress(ref arena.Ref) {
	was, ok := r.arena.Snapshot(ref, r.data[:])
	if !ok || Codec(was.Codec)&^contentOf != LZ4 {
		return
	}
	if !r.decode(LZ4, r.page[:], was.Data) || crc32.Checksum(r.page[:], castagnoli) != was.Sum {
		return // damaged: the scrubber and Load say so
	}
	if domain := r.domainOf(was.Export); domain != 0 && !isContent(was) {
		// Pages that were compressed in line have not been looked up so far.
		switch r.sharer.share(ref, was, r.page[:], domain) {
		case sharedNow:
			r.moved[backends.MovedShared].Add(1)
			return
		case sharedLater:
			return
		}
		r.note(domain, was.Sum, ref)
	}
	if _, err := r.zstd.get(); err != nil {
		r.log.Error("cold pages are not recompressed", "error", err)
		return
	}
	data, ok := r.zstd.encode(r.out[:], r.page[:])
	if !ok {
		return // next round
	}
	if !worthRecompressing(len(was.Data), data) {
		if r.arena.Mark(ref, flagSettled, 0) {
			r.moved[backends.MovedColdPoor].Add(1)
		}
		return
	}
	next := was
	next.Codec, next.Data = was.Codec&uint8(contentOf)|uint8(Zstd), data
	if r.replaceAny(ref, was, next) {
		r.moved[backends.MovedCold].Add(1)
	}
}

// replaceAny is replace for a page's own object, and for a content.
func (r *recompressor) replaceAny(ref arena.Ref, was, next arena.Object) bool {
	if isContent(was) {
		return r.moveContent(ref, was, &next)
	}
	if !r.replace(ref, was, next) {
		return false
	}
	r.note(r.domainOf(was.Export), was.Sum, r.to)
	return true
}

// worthRecompressing says whether the result takes a sixteenth less than before.
func worthRecompressing(before int, data []byte) bool {
	return data != nil && len(data) <= before-before/16
}
