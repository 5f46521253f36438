"""Block status and structured reads against what was just written.

usage: status.py URI SEED

Works on the second half of the export, page by page. A page that was trimmed or
zeroed has to be told as a hole, one that was written must not be; every chunk
of a structured read has to say the same as a plain read, with holes for pages
of zeros only; and a read that may not be fragmented comes in one chunk.
"""

import random
import sys

import nbd

PAGE = 4096
PAGES = 1024
ALLOCATION, OWNER = "base:allocation", "tmem:owner"
HOLE, STORAGE, BACKEND = 2, 1, 3  # numbers of tmem:owner; BACKEND and above


def main(uri, seed):
    rng = random.Random(seed)
    client = nbd.NBD()
    client.set_opt_mode(True)
    client.add_meta_context(ALLOCATION)
    client.add_meta_context(OWNER)
    client.connect_uri(uri)
    names = []
    client.opt_list_meta_context(names.append)
    assert sorted(names) == [ALLOCATION, OWNER], names
    client.opt_go()
    assert client.get_structured_replies_negotiated()
    assert client.can_df() and client.can_cache() and client.can_fast_zero()
    assert client.can_meta_context(ALLOCATION) and client.can_meta_context(OWNER)

    base = client.get_size() // 2
    model = [None] * PAGES
    client.zero(PAGES * PAGE, base)
    for step in range(300):
        first = rng.randrange(PAGES)
        count = min(rng.choice([1, 1, 3, 40]), PAGES - first)
        off, length = base + first * PAGE, count * PAGE
        what = rng.randrange(5)
        if what < 3:
            page = bytes([rng.randrange(1, 256)]) + rng.choice([bytes(PAGE - 1), rng.randbytes(PAGE - 1)])
            client.pwrite(page * count, off)
        elif what == 3:
            page = None
            client.trim(length, off)
        else:
            page = None
            client.zero(length, off, rng.choice([0, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_NO_HOLE]))
        for i in range(first, first + count):
            model[i] = page
        if step % 10 == 0:
            client.cache(length, off)
            status(client, rng, base, model)
            structured(client, rng, base, model)
    status(client, rng, base, model)
    print("status agrees with the model")


def status(client, rng, base, model):
    first = rng.randrange(PAGES)
    count = rng.randrange(1, PAGES - first + 1)
    told = {}

    def report(context, offset, entries, error):
        assert error.value == 0 and offset == base + first * PAGE, (error.value, offset)
        told[context] = list(zip(entries[::2], entries[1::2]))

    flags = rng.choice([0, nbd.CMD_FLAG_REQ_ONE])
    client.block_status(count * PAGE, base + first * PAGE, report, flags)
    assert sorted(told) == [ALLOCATION, OWNER], told
    for context, extents in told.items():
        page = first
        assert flags == 0 or len(extents) == 1, extents
        for length, state in extents:
            assert length % PAGE == 0, extents
            for i in range(page, page + length // PAGE):
                hole = model[i] is None
                if context == ALLOCATION:
                    assert state == (3 if hole else 0), (i, state, hole)
                else:
                    assert (state == HOLE) == hole and (hole or state == STORAGE or state >= BACKEND), (i, state, hole)
            page += length // PAGE
        assert page <= first + count, (page, first, count)
        assert flags != 0 or len(extents) == 1000 or page == first + count, (page, first, count)


def structured(client, rng, base, model):
    start = rng.randrange(PAGES * PAGE)
    length = rng.randrange(1, min(2 << 20, PAGES * PAGE - start) + 1)
    want = b"".join(page or bytes(PAGE) for page in model)[start:start + length]
    for flags in 0, nbd.CMD_FLAG_DF:
        got, chunks = bytearray(length), []

        def chunk(data, offset, kind, error):
            assert error.value == 0
            chunks.append(kind)
            at = offset - base - start
            if kind == nbd.READ_HOLE:
                # libnbd gives a buffer of zeros for a hole.
                assert offset % PAGE == 0 and not any(data), offset
            got[at:at + len(data)] = data

        client.pread_structured(length, base + start, chunk, flags)
        assert got == want, (start, length, flags)
        assert flags == 0 or chunks == [nbd.READ_DATA], chunks
    return


main(sys.argv[1], int(sys.argv[2]))
