"""Random requests on two connections to one export, against a bytearray.

usage: model.py URI SEED

Offsets and lengths are of any alignment. A request goes to either connection;
what the other one wrote has to be seen, the more so after a flush. Trim is held
to what this server promises: whole pages read as zero, parts of pages stay.
"""

import random
import sys

import nbd

PAGE = 4096
SPAN = 3 << 20  # bytes of the export that are used: small, so that requests meet
REQUESTS = 400
BATCH = 16  # requests in flight at once

WORDS = b"store load invalidate drain refuse swap page map word lock hole area ".split()


def content(rng, length):
    """Text, a single value or noise."""
    kind = rng.randrange(3)
    if kind == 0:
        text = bytearray()
        while len(text) < length:
            text += rng.choice(WORDS) + b" "
        return bytes(text[:length])
    if kind == 1:
        return bytes([rng.randrange(256)]) * length
    return rng.randbytes(length)


def span(rng, limit=200_000):
    """A range: pages, sectors or anything."""
    step = rng.choice([PAGE, 512, 1])
    off = rng.randrange(0, SPAN // step) * step
    length = max(step, rng.randrange(0, rng.choice([PAGE, 16 * PAGE, limit]) // step) * step)
    return off, min(length, SPAN - off)


class Model:
    def __init__(self, uri, seed):
        self.rng = random.Random(seed)
        self.clients = [nbd.NBD(), nbd.NBD()]
        for client in self.clients:
            client.connect_uri(uri)
        self.bytes = bytearray(SPAN)
        self.clients[0].zero(SPAN, 0)

    def flags(self, *choice):
        return self.rng.choice([0, 0, 0, *choice])

    def read(self, client):
        off, length = span(self.rng)
        self.expect(client.pread(length, off), off)

    def expect(self, got, off):
        want = self.bytes[off : off + len(got)]
        if got == want:
            return
        i = next(i for i in range(len(want)) if got[i] != want[i])
        sys.exit(f"byte {off + i} is {got[i]:#x}, want {want[i]:#x}")

    def write(self, client):
        off, length = span(self.rng)
        data = content(self.rng, length)
        client.pwrite(data, off, self.flags(nbd.CMD_FLAG_FUA))
        self.bytes[off : off + length] = data

    def zero(self, client):
        off, length = span(self.rng)
        client.zero(length, off, self.flags(nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE))
        self.bytes[off : off + length] = bytes(length)

    def trim(self, client):
        off, length = span(self.rng)
        client.trim(length, off, self.flags(nbd.CMD_FLAG_FUA))
        first = -(-off // PAGE) * PAGE
        last = (off + length) // PAGE * PAGE
        if first < last:
            self.bytes[first:last] = bytes(last - first)

    def flush(self, client):
        """Write, flush, and look from the other side."""
        self.write(client)
        client.flush()
        other = self.clients[1 - self.clients.index(client)]
        for _ in range(3):
            self.read(other)

    def batch(self, client):
        """Many writes in flight, none overlapping, then as many reads."""
        size = SPAN // BATCH
        ranges = []
        for i in range(BATCH):
            start = self.rng.randrange(size - 1)
            ranges.append((i * size + start, self.rng.randrange(1, size - start)))
        self.rng.shuffle(ranges)
        cookies = []
        for off, length in ranges:
            data = content(self.rng, length)
            cookies.append(client.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), off))
            self.bytes[off : off + length] = data
        self.finish(client, cookies)
        other = self.rng.choice(self.clients)
        reads = [(off, nbd.Buffer(length)) for off, length in ranges]
        self.finish(other, [other.aio_pread(buffer, off) for off, buffer in reads])
        for off, buffer in reads:
            self.expect(buffer.to_bytearray(), off)

    @staticmethod
    def finish(client, cookies):
        for cookie in cookies:
            while not client.aio_command_completed(cookie):
                client.poll(-1)

    def run(self):
        requests = [self.read] * 8 + [self.write] * 8 + [self.zero, self.trim] * 2 + [self.flush, self.batch]
        for _ in range(REQUESTS):
            self.rng.choice(requests)(self.rng.choice(self.clients))
        for client in self.clients:
            self.expect(client.pread(SPAN, 0), 0)
            client.shutdown()


if __name__ == "__main__":
    uri, seed = sys.argv[1], int(sys.argv[2])
    print("seed", seed, flush=True)
    Model(uri, seed).run()
    print(REQUESTS, "requests agree with the model")
