#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGKILL under overload, round after round over one cache, each judged sector by sector.

    tests/kill_rounds.py [--rounds N] [--seed S] [--data-crc 0|1] [--gc-percent N] [--size-mib N]
                         [--backing-order strict|relaxed] [--cache-mode MODE|switching] [--dir DIR] [--shm DIR]
                         [--longest SECONDS] [--keep-image]

A round: a process of six writers (a queue each, up to 8 requests in flight, 512 B to 1 MiB, a third of it in 32 MiB
that all fight for; discards and writes of zeros, flushes, FUA, PREFLUSH, reads, drains, changes of gc_percent) is
killed at a random moment; the cache is opened here and all of it is read. Prints a line a round and `N passed, M
failed`. A failed round ends the run: it prints the command that repeats it and keeps its files.

Judged is by what the writers had noted in shared memory (a serial number before each request and one after its
completion), so nothing is assumed about the order of requests that were in flight together:
- no sector is torn or misplaced, and each holds a write that was asked for (or what it held before);
- no sector holds a write W when there is a W' of it that began after W had completed, and W' was durable: FUA,
  or completed before a FLUSH (or PREFLUSH) began that completed;
- what a check has found counts as durable in the next round.
Every third round the cache is drained too, and the backing file alone must hold the same bytes.
In a mode that acknowledges writes on the backing device what has completed is durable, and the backing file alone is
judged first, as the killed process left it. With --cache-mode switching the writers change the mode now and then.
"""

import argparse
import errno
import itertools
import json
import mmap
import os
import pathlib
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from array import array

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))

from measure.libpcache import (DISCARD, FLUSH, FUA, MIB, PREFLUSH, READ, WRITE, WRITE_ZEROES, Cache,  # noqa: E402
                               PcacheError, Request)

SECTOR = 512
CACHE_BYTES = 512 * MIB
MODES = ("writeback", "writethrough", "writearound", "writeonly", "passthrough")
ON_DEVICE = ("writethrough", "writearound", "passthrough")
DEPTHS = (1, 1, 1, 4, 4, 8)  # requests in flight, of each writer
SIZES = (512, 4096, 4096, 4096, 16384, 65536, 69632, 262144, MIB, MIB)
HOT = 32 * MIB
RECORDS = 60_000  # of each writer; more than a round takes
RECORD = 4        # words: serial before, offset, length + kind << 32, serial after
ENTERED, OPENED = 0, 1  # words of the log's first page
KIND_FLUSH = 1 << 8     # among the request's flags
KIND_ZEROS = 1 << 9
ZEROS_SIZES = (*SIZES, 16 * MIB, 64 * MIB)
PLACE_BITS = 24


# ---- Sectors: each of the 64 words names the write and the place ----

def words_of(first, count, tag):
    """The word of each of so many sectors."""
    return array("Q", range(tag << PLACE_BITS | first, (tag << PLACE_BITS | first) + count))


def words_written(first, count, tag, zeros):
    return array("Q", bytes(8 * count)) if zeros else words_of(first, count, tag)


def expand(words, into=None):
    """The content of the sectors with those words."""
    into = array("Q", bytes(SECTOR * len(words))) if into is None else into
    for k in range(SECTOR // 8):
        into[k::SECTOR // 8] = words
    return into


# ---- The process that is killed ----

class Writer:
    """One queue and what it does; notes each request in its part of the log."""

    def __init__(self, cache, log, number, want, serial):
        self.cache, self.serial, self.number = cache, serial, number
        self.rng = random.Random(f"{want['seed']} {number}")
        self.size, self.gc_percent, self.switches = want["size"], want["gc_percent"], want["switches"]
        self.queue = cache.new_queue()
        self.log, self.record = log, 512 + number * RECORDS * RECORD
        self.end = self.record + RECORDS * RECORD
        self.free = [Request(READ, 0, length=MIB) for _ in range(DEPTHS[number])]
        self.views = {id(r): memoryview(r.map).cast("Q") for r in self.free}
        self.records = {}

    def note(self, request, off, length, kind):
        at, self.record = self.record, self.record + RECORD
        assert self.record <= self.end, "the log is full"
        self.log[at + 1], self.log[at + 2] = off, length | kind << 32
        tag = next(self.serial)
        self.log[at] = tag  # one store; from here on the record counts
        self.records[id(request)] = at
        return tag

    def completed(self, request):
        assert request.result == 0, f"{os.strerror(-request.result)}, request {request.raw.op}"
        at = self.records.pop(id(request), None)
        if at is not None:
            self.log[at + 3] = next(self.serial)
        self.free.append(request)

    def prepare(self, request):
        rng, raw = self.rng, request.raw
        roll = rng.random()
        if roll < 0.012:
            raw.op, raw.flags = FLUSH, 0
            self.note(request, 0, 0, KIND_FLUSH)
            return
        zeros = roll > 0.96
        length = rng.choice(ZEROS_SIZES if zeros else SIZES)
        start, size = (0, HOT) if rng.random() < 0.3 and length <= HOT // 2 else (0, self.size)
        align = rng.choice((SECTOR, 4096))
        off = start + rng.randrange(0, size - length + 1, align)
        raw.off, raw.len, raw.flags = off, length, 0
        if roll < 0.08:
            raw.op = READ
            return
        raw.op = rng.choice((DISCARD, DISCARD, WRITE_ZEROES)) if zeros else WRITE
        raw.flags = rng.choice((0,) * 80 + (FUA, FUA, PREFLUSH, FUA | PREFLUSH))
        tag = self.note(request, off, length, raw.flags | (KIND_ZEROS if zeros else 0))
        if zeros:
            return
        content = expand(words_of(off // SECTOR, length // SECTOR, tag))
        self.views[id(request)][:len(content)] = memoryview(content)

    def body(self):
        while True:
            if not self.free:
                for request in self.queue.reap(1):
                    self.completed(request)
            if self.rng.random() < 0.0005:
                self.cache.drain()
            if self.rng.random() < 0.001:
                self.cache.set_gc_percent(self.rng.randrange(91))
                self.cache.set_gc_percent(self.gc_percent)
            if self.switches and self.rng.random() < 0.01:
                self.cache.set("cache_mode", self.rng.choice(MODES))
            request = self.free.pop()
            self.prepare(request)
            if self.queue.submit(request):
                self.completed(request)

    def run(self):
        try:
            self.body()
        except BaseException as error:  # the parent must see it, not a writer that is quiet
            print(f"writer {self.number}: {error!r}", file=sys.stderr, flush=True)
            os._exit(3)


def child(want):
    with open(want["log"], "r+b") as f:
        log = memoryview(mmap.mmap(f.fileno(), 0)).cast("Q")
    log[ENTERED] = 1
    cache = Cache(want["cache"], want["backing"], **want["options"])
    serial = itertools.count(want["serial"])
    writers = [Writer(cache, log, number, want, serial) for number in range(len(DEPTHS))]
    threads = [threading.Thread(target=writer.run) for writer in writers]
    for thread in threads:
        thread.start()
    log[OPENED] = 1
    for thread in threads:
        thread.join()


# ---- The judge ----

class Failed(Exception):
    pass


class Round:
    """What the writers of one round have noted. `all_durable`: whatever has completed is."""

    def __init__(self, log, all_durable=False):
        self.writes, flushes = {}, []  # tag -> (off, length, completed or None, whether of zeros)
        durable = []
        self.serial = 0
        for number in range(len(DEPTHS)):
            at = 512 + number * RECORDS * RECORD
            for at in range(at, at + RECORDS * RECORD, RECORD):
                before, off, packed, after = log[at:at + RECORD].tolist()
                if before == 0:
                    break
                self.serial = max(self.serial, before, after)
                length, kind = packed & 0xFFFFFFFF, packed >> 32
                if kind & (KIND_FLUSH | PREFLUSH) and after:
                    flushes.append(before)
                if kind & KIND_FLUSH:
                    continue
                self.writes[before] = (off, length, after or None, bool(kind & KIND_ZEROS))
                if (all_durable or kind & FUA) and after:
                    durable.append(before)
        barrier = max(flushes, default=0)  # what had completed before this is durable
        self.flushes = len(flushes)
        self.bytes = sum(length for _, length, _, zeros in self.writes.values() if not zeros)
        durable = set(durable)
        durable |= {tag for tag, (_, _, after, _) in self.writes.items() if after and after < barrier}
        self.zeros = {tag: write for tag, write in self.writes.items() if write[3]}
        # The last to complete counts, of those that are durable; and when the last of them began.
        self.by_completion = sorted(durable, key=lambda tag: self.writes[tag][2])
        self.by_begin = sorted(durable)


class Judge:
    """What each sector may hold, carried from round to round."""

    def __init__(self, size):
        self.state = words_of(0, size // SECTOR, 0)

    def expected(self, noted):
        """The words that are there if nothing that is not durable is; and the newest durable begin."""
        newest, begun = self.state[:], array("Q", bytes(8 * len(self.state)))
        for tag in noted.by_completion:
            first, count = noted.writes[tag][0] // SECTOR, noted.writes[tag][1] // SECTOR
            newest[first:first + count] = words_written(first, count, tag, noted.writes[tag][3])
        for tag in noted.by_begin:
            first, count = noted.writes[tag][0] // SECTOR, noted.writes[tag][1] // SECTOR
            begun[first:first + count] = array("Q", [tag]) * count
        return newest, begun

    def check(self, chunks, noted):
        """`chunks` gives (first sector, words of its content). Returns how many sectors were not as durable."""
        newest, begun = self.expected(noted)
        other = 0
        for first, content in chunks:
            count = len(content) * 8 // SECTOR
            if content == expand(newest[first:first + count]):
                continue
            words = content[::SECTOR // 8]
            for sector, word in enumerate(words, first):
                if word == newest[sector]:
                    continue
                other += 1
                self.judge(sector, word, begun[sector], noted)
            if content != expand(words):
                torn = next(n for n in range(count) if len(set(content[n * 64:n * 64 + 64])) > 1)
                raise Failed(f"sector {first + torn} is torn: "
                             f"{[hex(w) for w in sorted(set(content[torn * 64:torn * 64 + 64]))]}")
            newest[first:first + count] = words
        self.state = newest
        return other

    def judge(self, sector, word, begun, noted):
        place, tag = word & (1 << PLACE_BITS) - 1, word >> PLACE_BITS
        newest = f"the newest durable write of it is {begun}" if begun else "no write of it is durable"
        if word == 0:
            return self.judge_zeros(sector, begun, noted, newest)
        if place != sector:
            raise Failed(f"sector {sector} holds the data of sector {place} (write {tag}); {newest}")
        if tag in noted.writes:
            off, length, completed, zeros = noted.writes[tag]
            if zeros or not off <= sector * SECTOR < off + length:
                raise Failed(f"sector {sector} holds write {tag}, which did not write it; {newest}")
            if completed and completed < begun:
                raise Failed(f"sector {sector} holds write {tag}, completed at {completed}; {newest}")
        elif word != self.state[sector]:
            raise Failed(f"sector {sector} holds write {tag} of an earlier round, it held "
                         f"{self.state[sector] >> PLACE_BITS}; {newest}")
        elif begun:
            raise Failed(f"sector {sector} holds write {tag} of an earlier round; {newest}")
        return None

    def judge_zeros(self, sector, begun, noted, newest):
        """Zeros do not tell who wrote them: one that may be there is enough."""
        if any(off <= sector * SECTOR < off + length and not (completed and completed < begun)
               for off, length, completed, _ in noted.zeros.values()):
            return
        if self.state[sector]:
            raise Failed(f"sector {sector} holds zeros, which no write of this round has left there; {newest}")
        if begun:
            raise Failed(f"sector {sector} holds zeros of an earlier round; {newest}")


def content_of(cache, size):
    """(first sector, words) of each MiB, read with several requests under way."""
    ready = {}
    requests = [Request(READ, n * MIB, length=MIB) for n in range(16)]
    following = len(requests)
    for request in requests:
        if cache.queue.submit(request):
            ready[request.raw.off] = request
    for off in range(0, size, MIB):
        while off not in ready:
            for request in cache.queue.reap(1):
                ready[request.raw.off] = request
        request = ready.pop(off)
        if request.result:
            raise Failed(f"reading 1 MiB at {off}: {os.strerror(-request.result)}")
        words = array("Q")
        words.frombytes(request.data)
        yield off // SECTOR, words
        if following * MIB < size:
            request.raw.off = following * MIB
            following += 1
            if cache.queue.submit(request):
                ready[request.raw.off] = request


class Run:
    """A cache and its backing file under `shm` and `disk`, and the rounds over them."""

    def __init__(self, shm, disk, seed=0, data_crc=0, gc_percent=70, size=1024 * MIB, longest=2.5,
                 keep_image=False, cache_path=None, backing_order="strict", cache_mode="writeback"):
        self.cache_path, self.backing_path = cache_path or shm / "cache", disk / "backing"
        self.log_path, self.image_path = shm / "log", shm / "cache-as-killed"
        self.seed, self.size, self.longest, self.keep_image = seed, size, longest, keep_image
        self.gc_percent = gc_percent
        self.switches, self.on_device = cache_mode == "switching", cache_mode in ON_DEVICE
        self.options = {"data_crc": data_crc, "gc_percent": gc_percent, "backing_order": backing_order,
                        "cache_mode": "media" if self.switches else cache_mode}
        self.judge, self.serial, self.drained, self.round = Judge(size), 1, 0, 0
        if not self.cache_path.exists():
            with open(self.cache_path, "wb") as f:
                f.truncate(CACHE_BYTES)
        with open(self.backing_path, "wb") as f:
            for first in range(0, size // SECTOR, MIB // SECTOR):
                f.write(expand(words_of(first, MIB // SECTOR, 0)))

    def open(self, **options):
        """The kernel may still have I/O of the killed process under way, which holds the locks."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return Cache(self.cache_path, self.backing_path, **(options or self.options))
            except PcacheError as error:
                if error.code != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def is_blank(self):
        """No superblock: a format stores it last."""
        with open(self.cache_path, "rb") as f:
            f.seek(4096)
            return not any(f.read(8))

    def life(self, rng):
        """One process, killed; returns its log."""
        with open(self.log_path, "wb") as f:
            f.truncate((512 + len(DEPTHS) * RECORDS * RECORD) * 8)
        with open(self.log_path, "r+b") as f:
            log = memoryview(mmap.mmap(f.fileno(), 0)).cast("Q")
        want = {"cache": str(self.cache_path), "backing": str(self.backing_path), "log": str(self.log_path),
                "size": self.size, "seed": rng.random(), "serial": self.serial,
                "options": {**self.options, "flush_delay_ms": rng.choice((10, 1000, 60000)),
                            "writeback_interval_ms": rng.choice((20, 5000))},
                "gc_percent": self.gc_percent, "switches": self.switches}
        early = rng.random() < 0.15  # in or right after the attach
        moment = rng.uniform(0, 0.05) if early else rng.uniform(0, self.longest)
        process = subprocess.Popen([sys.executable, "-B", __file__, "--child", json.dumps(want)])
        try:
            self.wait(process, lambda: log[ENTERED])
            if not early:
                self.wait(process, lambda: log[OPENED])
                # Each writer must get on: a cache that stands still is noticed in the next round at the latest.
                for number in range(len(DEPTHS)):
                    at = 512 + number * RECORDS * RECORD
                    self.wait(process, lambda at=at: any(log[at + 3 + k * RECORD] for k in range(16)))
            try:
                process.wait(moment)
                raise Failed(f"the writing process ended by itself with {process.returncode}; see its stderr")
            except subprocess.TimeoutExpired:
                pass
        finally:
            process.kill()
            process.wait()
        return log

    def wait(self, process, condition):
        deadline = time.monotonic() + 60
        while not condition():
            if process.poll() is not None:
                raise Failed(f"the writing process ended by itself with {process.returncode}; see its stderr")
            if time.monotonic() > deadline:
                raise Failed("the writing process stands still for 60 s")
            time.sleep(0.005)

    def step(self):
        """One round; returns a line about it, raises Failed."""
        rng = random.Random(f"{self.seed} {self.round}")
        begin = time.monotonic()
        noted = Round(self.life(rng), self.on_device)
        killed = time.monotonic()
        self.serial = max(self.serial, noted.serial + 1)
        if self.keep_image:
            shutil.copy(self.cache_path, self.image_path)
        if self.on_device:
            self.judge_backing(noted)
        cache = self.open()
        try:
            other = self.judge.check(content_of(cache, self.size), noted)
            if self.on_device or self.round % 3 == 2:
                cache.drain()
                self.check_backing()
                self.drained += 1
            status = cache.status
        finally:
            cache.close()
        self.round += 1
        replay = status["replay"]
        return (f"{len(noted.writes)} writes, {noted.bytes >> 20} MiB, {noted.flushes} flushes in "
                f"{killed - begin:.1f} s; {replay['ksets']} ksets, {replay['dirty_bytes'] >> 20} MiB dirty, "
                f"torn tail: {'yes' if replay['torn_tail'] else 'no'}; {other} sectors newer than durable"
                f"{', drained' if self.round % 3 == 0 else ''}; checked in {time.monotonic() - killed:.1f} s")

    def judge_backing(self, noted):
        """The backing file alone has what was acknowledged on it; it was drained before this round."""
        if self.round == 0 and not noted.writes and self.is_blank():
            return  # it was killed before it had made a cache; blank at any other time is a loss, which open() refuses
        self.open(readonly=1).close()  # the kernel is done with what the process had in flight, and nothing is written
        alone = Judge(self.size)
        alone.state = self.judge.state[:]
        try:
            alone.check(self.backing_content(), noted)
        except Failed as failed:
            raise Failed(f"the backing file alone: {failed}") from None

    def backing_content(self):
        with open(self.backing_path, "rb", buffering=0) as f:
            for first in range(0, self.size // SECTOR, MIB // SECTOR):
                words = array("Q")
                words.frombytes(f.read(MIB))
                yield first, words

    def check_backing(self):
        """The backing file alone holds what the check has read through the cache."""
        with open(self.backing_path, "rb", buffering=0) as f:
            for first in range(0, self.size // SECTOR, MIB // SECTOR):
                content = f.read(MIB)
                want = expand(self.judge.state[first:first + MIB // SECTOR]).tobytes()
                if content != want:
                    at = next(n for n in range(0, MIB, SECTOR) if content[n:n + SECTOR] != want[n:n + SECTOR])
                    raise Failed(f"drained, the backing file differs from the cache's content at sector "
                                 f"{first + at // SECTOR}: write "
                                 f"{int.from_bytes(content[at:at + 8], 'little') >> PLACE_BITS} instead of "
                                 f"{self.judge.state[first + at // SECTOR] >> PLACE_BITS}")

    def rounds(self, count, say=print):
        """Returns how many passed; ends at the first that fails."""
        for number in range(count):
            try:
                say(f"round {number}: ok, {self.step()}")
            except (Failed, PcacheError) as error:
                say(f"round {number}: FAILED: {error}")
                return number
        return count


def main():
    if sys.argv[1:2] == ["--child"]:
        return child(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-crc", type=int, choices=(0, 1), default=0)
    parser.add_argument("--gc-percent", type=int, default=70)
    parser.add_argument("--backing-order", choices=("strict", "relaxed"), default="strict")
    parser.add_argument("--cache-mode", choices=(*MODES, "switching"), default="writeback")
    parser.add_argument("--size-mib", type=int, default=1024, help="of the backing file")
    parser.add_argument("--longest", type=float, default=2.5, help="a life's seconds at most")
    parser.add_argument("--dir", default=os.environ.get("PCACHE_TEST_DIR", tempfile.gettempdir()))
    parser.add_argument("--shm", default="/dev/shm")
    parser.add_argument("--keep-image", action="store_true", help="a copy of the cache as each kill left it")
    args = parser.parse_args()
    folders = [pathlib.Path(tempfile.mkdtemp(prefix=f"pcache-kill-{os.getpid()}-", dir=parent))
               for parent in (args.shm, args.dir)]
    run = Run(*folders, seed=args.seed, data_crc=args.data_crc, gc_percent=args.gc_percent,
              size=args.size_mib * MIB, longest=args.longest, keep_image=args.keep_image,
              backing_order=args.backing_order, cache_mode=args.cache_mode)
    passed = 0
    try:
        passed = run.rounds(args.rounds, lambda line: print(line, flush=True))
    finally:
        if passed == args.rounds:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"kept: {folders[0]} {folders[1]}; again: {shlex.join([sys.executable] + sys.argv)}")
    print(f"{passed} passed, {0 if passed == args.rounds else 1} failed")
    return 0 if passed == args.rounds else 1


if __name__ == "__main__":
    sys.exit(main())
