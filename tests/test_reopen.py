# SPDX-License-Identifier: GPL-2.0-or-later
"""What is there after close, and after SIGKILL at any moment.

SIGKILL leaves every store that reached the mapping: what it takes away is what was in DRAM (open ksets). What
only a power cut takes away is for the C++ tests over the simulated pmem.
"""

import json
import pathlib
import random
import signal
import struct
import subprocess
import sys

import pytest

from measure.libpcache import FUA, MIB, PREFLUSH, READ, Request
from support import (CACHE_INFO, KSET_MAGIC, PAGE, SECTOR, SEGMENT, SEGMENTS_AT, SUPERBLOCK, Pair, digest, patch,
                     peek, read_all, sealed, stamp, tag_of, wait_until)

CHILD = pathlib.Path(__file__).with_name("crash_child.py")
SIZE = 16 * MIB
NEVER = 3_600_000  # as writeback_interval_ms, where what is dirty is looked at: a loaded machine may take 5 s
KEYS_PER_KSET = 128
SEGMENT_DATA = SEGMENT - 12 * 1024


# ---- After close ----

@pytest.mark.parametrize("data_crc", [0, 1])
@pytest.mark.parametrize("durable", ["flush", "fua", "preflush", "close"])
def test_reopen_after_close(pair, data_crc, durable):
    cache = pair.open(data_crc=data_crc, writeback_interval_ms=NEVER)
    want = bytearray(stamp(0, SIZE, 0))
    written = 0
    for tag, off in enumerate(range(0, SIZE, 128 * 1024 + SECTOR), 1):
        data = stamp(off, min(5 * PAGE, SIZE - off), tag)
        want[off:off + len(data)] = data
        written += len(data)
        cache.write(off, data, flags={"fua": FUA, "preflush": PREFLUSH}.get(durable, 0))
    if durable == "flush":
        cache.flush()
    cache = pair.reopen(cache)
    assert read_all(cache) == bytes(want)
    status = cache.status
    assert status["cache"]["data_crc"] == bool(data_crc)
    assert status["replay"]["dirty_bytes"] == written
    assert not status["replay"]["torn_tail"]


def test_reopen_at_once_many_times(pair):
    """Closing lets go of both devices before it returns, so that the next open finds them free."""
    for round_ in range(20):
        cache = pair.open()
        cache.read(round_ * 64 * 1024, PAGE)  # I/O on the backing device
        cache.write(0, stamp(0, PAGE, round_ + 1), flags=FUA)
        cache.close()
    assert pair.open().read(0, PAGE) == stamp(0, PAGE, 20)


def test_reopen_without_writing_moves_nothing_but_cache_info(pair):
    cache = pair.open(writeback_interval_ms=NEVER)
    cache.write(0, b"x" * MIB, flags=FUA)
    cache.close()
    before = digest_without_cache_info(pair)
    for _ in range(5):
        pair.open(writeback_interval_ms=NEVER).close()
        assert digest_without_cache_info(pair) == before


def digest_without_cache_info(pair):
    return digest(pair.backing_path), peek(pair.cache_path, 0, CACHE_INFO), \
        peek(pair.cache_path, CACHE_INFO + 2 * PAGE, 4 * SEGMENT)


def test_cache_info_sequence_wraps(pair):
    """Each attach writes cache_info anew; its 8-bit sequence number wraps more than once."""
    cache = pair.open(gc_percent=33)
    cache.write(0, b"w" * PAGE, flags=FUA)
    cache.close()
    # As after some 250 attaches more: 124 -> 252, 123 -> 251, whichever they are.
    slots = sorted((0, 1), key=lambda slot: peek(pair.cache_path, CACHE_INFO + slot * PAGE, 24)[4])
    for seq, slot in zip((252, 253), slots):
        record = bytearray(peek(pair.cache_path, CACHE_INFO + slot * PAGE, 24))
        record[4] = seq
        patch(pair.cache_path, CACHE_INFO + slot * PAGE, sealed(bytes(record)))
    seqs = []
    for gc_percent in range(40, 50):  # the newest must win each time
        cache = pair.open()
        assert cache.info.gc_percent == (gc_percent - 1 if gc_percent > 40 else 33)
        cache = pair.reopen(cache, gc_percent=gc_percent)
        cache.close()
        seqs.append(max(peek(pair.cache_path, CACHE_INFO + slot * PAGE, 24)[4] for slot in (0, 1)))
    assert 255 in seqs and seqs[-1] < 252, "it did not wrap"
    assert pair.open().read(0, PAGE) == b"w" * PAGE


def test_clean_keys_survive_reopen(pair):
    """What was filled is a hit after reopening, and counts as clean."""
    cache = pair.open(writeback_interval_ms=NEVER)
    cache.read(0, 2 * MIB)
    cache.write(3 * MIB, b"d" * PAGE)
    cache = pair.reopen(cache)
    assert cache.status["replay"]["dirty_bytes"] == PAGE
    assert cache.status["index"]["mapped_bytes"] == 2 * MIB + PAGE
    assert cache.read(0, 2 * MIB) == stamp(0, 2 * MIB, 0)
    assert cache.status["events"]["fills"] == 0


def test_closing_with_reads_in_flight(pair):
    cache = pair.open()
    for n in range(32):
        cache.queue.submit(Request(READ, n * 256 * 1024, length=128 * 1024))
    cache = pair.reopen(cache)
    assert read_all(cache) == stamp(0, SIZE, 0)


# ---- The log: ksets of 128 keys, segment ends, LAST ----

def ksets(path, segment, seg_off=0):
    """The ksets of one log segment: (seg_off, keys or None for LAST, key_num)."""
    found = []
    at = SEGMENTS_AT + segment * SEGMENT + 12 * 1024
    data = peek(path, at, SEGMENT_DATA)
    while seg_off <= SEGMENT_DATA - 24:
        _crc, n, magic, flags = struct.unpack_from("<IIQQ", data, seg_off)
        if magic != KSET_MAGIC:
            break
        found.append((seg_off, bool(flags & 1), n))
        if flags & 1:
            break
        seg_off += 24 + 40 * n
    return found


def test_full_ksets_are_closed(pair):
    """Single sectors of one range: 128 keys close a kset without any flush."""
    cache = pair.open(flush_delay_ms=60000)
    cache.queue.write_each([n * SECTOR for n in range(KEYS_PER_KSET - 1)], b"k" * SECTOR)
    assert cache.status["log"]["ksets"] == 0 and cache.status["log"]["open_keys"] == KEYS_PER_KSET - 1
    cache.write(MIB, b"k" * SECTOR)
    assert cache.status["log"]["ksets"] == 1 and cache.status["log"]["open_keys"] == 0
    assert ksets(pair.cache_path, 0) == [(0, False, KEYS_PER_KSET)]


def test_keys_of_one_range_share_a_kset(pair):
    """The log keeps the order of a range's keys: written across many ranges, closed out of order."""
    cache = pair.open(flush_delay_ms=60000)
    want = bytearray(stamp(0, SIZE, 0))
    for tag in range(1, 600):
        off = (tag * 5 % 4) * 4 * MIB + tag % 7 * SECTOR
        want[off:off + SECTOR] = stamp(off, SECTOR, tag)
        cache.write(off, stamp(off, SECTOR, tag), flags=FUA if tag % 90 == 0 else 0)
    assert read_all(pair.reopen(cache)) == bytes(want)


def test_log_rolls_over_segment_ends(pair):
    """A kset per write, until the log has gone through two segment ends by LAST ksets."""
    cache = pair.open()
    sectors = 4 * MIB // SECTOR
    per_segment = SEGMENT_DATA // 64
    n = 2 * per_segment + 1000
    # Every sector of one range in turn, so that the order of the log decides what is read.
    written, error = cache.queue.write_each((i % sectors * SECTOR for i in range(n - sectors)),
                                            b"o" * SECTOR, flags=FUA)
    assert (written, error) == (n - sectors, 0)
    for i in range(0, sectors, 8):
        cache.write(i * SECTOR, stamp(i * SECTOR, 8 * SECTOR, i))
    want = b"".join(stamp(i * SECTOR, 8 * SECTOR, i) for i in range(0, sectors, 8))
    written, error = cache.queue.write_each((4 * MIB + i % sectors * SECTOR for i in range(sectors)),
                                            b"n" * SECTOR, flags=FUA)
    assert (written, error) == (sectors, 0)
    log = cache.status["log"]
    assert log["rolls"] >= 2
    head = log["key_head"]
    cache = pair.reopen(cache)
    assert cache.status["log"]["key_head"] == head
    assert cache.read(0, 4 * MIB) == want
    assert cache.read(4 * MIB, 4 * MIB) == b"n" * (4 * MIB)
    assert cache.read(8 * MIB, 4 * MIB) == stamp(8 * MIB, 4 * MIB, 0)

    # What stands on media: each log segment ends in LAST, which leads to the next.
    segment, chain = 0, [0]
    while True:
        last = ksets(pair.cache_path, segment)[-1]
        if not last[1]:
            break
        segment = last[2]
        assert segment not in chain
        chain.append(segment)
    assert len(chain) == log["rolls"] + 1
    assert cache.status["segments"]["log"] == len(chain)


@pytest.mark.parametrize("keys", [1, 2, 127, 128])
def test_log_segment_end_with_any_kset_size(pair, keys):
    """Ksets of every size up to the segment's end: there must be room for LAST behind each."""
    cache = pair.open(flush_delay_ms=60000)
    bytes_each = 24 + 40 * keys
    count = SEGMENT_DATA // 64 * 64 // bytes_each
    # To the segment's end in few steps with 128-key ksets, the rest with ksets of `keys`.
    big = max(0, (SEGMENT_DATA - 40 * bytes_each) // (24 + 40 * 128))
    for round_ in range(big):
        cache.queue.write_each((n * SECTOR for n in range(128)), b"b" * SECTOR)
    assert cache.status["log"]["open_keys"] == 0
    round_ = 0
    while cache.status["log"]["rolls"] == 0:
        round_ += 1
        assert round_ < count, "the log never rolled"
        cache.queue.write_each((4 * MIB + n * SECTOR for n in range(keys)), stamp(0, SECTOR, round_))
        cache.flush()
    cache = pair.reopen(cache)
    assert cache.read(4 * MIB, SECTOR * keys) == stamp(0, SECTOR, round_) * keys
    assert cache.read(0, 128 * SECTOR) == b"b" * (128 * SECTOR)
    assert not cache.status["replay"]["torn_tail"]


def test_torn_kset_at_the_logs_end_is_the_end(pair):
    """A last kset whose keys did not reach the media: what was before stays, and the log goes on."""
    cache = pair.open(writeback_interval_ms=NEVER)
    for n in range(10):
        cache.write(n * PAGE, stamp(n * PAGE, PAGE, n + 1), flags=FUA)
    cache.close()
    last = ksets(pair.cache_path, 0)[-1]
    at = SEGMENTS_AT + 12 * 1024 + last[0]
    with open(pair.cache_path, "r+b") as f:
        f.seek(at + 24)
        f.write(bytes(40))
    cache = pair.open()
    assert cache.status["replay"]["torn_tail"]
    assert cache.read(0, 9 * PAGE) == b"".join(stamp(n * PAGE, PAGE, n + 1) for n in range(9))
    assert cache.read(9 * PAGE, PAGE) == stamp(9 * PAGE, PAGE, 0)
    cache.write(9 * PAGE, stamp(9 * PAGE, PAGE, 77), flags=FUA)
    cache = pair.reopen(cache)
    assert not cache.status["replay"]["torn_tail"]
    assert cache.read(9 * PAGE, PAGE) == stamp(9 * PAGE, PAGE, 77)


# ---- SIGKILL ----

class Child:
    """crash_child.py over a pair; a context manager that kills it."""

    def __init__(self, pair, body, seed=0, tag=0, steps=0, **options):
        want = {"cache": str(pair.cache_path), "backing": str(pair.backing_path), "size": SIZE,
                "body": body, "seed": seed, "tag": tag, "steps": steps, "options": options}
        self.process = subprocess.Popen([sys.executable, "-B", str(CHILD), json.dumps(want)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lines = []

    def wait_for(self, line=None, count=None):
        """Reads on to a certain line, or to so many lines."""
        while not (self.lines and self.lines[-1] == line) and len(self.lines) != count:
            got = self.process.stdout.readline()
            assert got.endswith(b"\n"), "the child ended by itself; its stderr says why"
            self.lines.append(got.decode().strip())

    def kill(self):
        """SIGKILL; returns all it has said."""
        self.process.send_signal(signal.SIGKILL)
        rest = self.process.stdout.read().decode()
        self.process.wait()
        complete = rest[:rest.rfind("\n") + 1]
        self.lines += complete.split("\n")[:-1]
        return self.lines

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


class Expected:
    """For each sector the tags it may hold after a kill, oldest first.

    An entry is a tuple of tags: one, or what the sector may have held after an earlier kill.
    """

    def __init__(self):
        self.tags = {}  # sector -> [entries]; without any it holds tag 0

    def killed(self):
        """What is there now is one of what was possible; a later flush does not say which."""
        for sector, tags in self.tags.items():
            self.tags[sector] = [tuple(tag for entry in tags for tag in entry)]

    def follow(self, lines):
        write = before_flush = None
        for line in lines:
            word, *numbers = line.split()
            if word == "w":
                off, length, tag, flags = map(int, numbers)
                write = (off // SECTOR, length // SECTOR, tag, flags)
                if write[3] & PREFLUSH:
                    before_flush = {s: tags[-1] for s, tags in self.tags.items() if len(tags) > 1}
                for sector in range(write[0], write[0] + write[1]):
                    self.tags.setdefault(sector, [(0,)]).append((tag,))
            elif word == "a":
                if write[3] & PREFLUSH:  # what was written before it is durable
                    for sector, tag in before_flush.items():
                        tags = self.tags[sector]
                        self.tags[sector] = tags[tags.index(tag):]
                if write[3] & FUA:  # it, and by rule flush-closes-all everything before it
                    self.settle()
            elif word == "F":
                self.settle()

    def settle(self):
        for tags in self.tags.values():
            del tags[:-1]

    def check(self, content):
        """What is there must be allowed; from now on it is what must be there."""
        for at in range(0, len(content), SECTOR):
            sector = at // SECTOR
            tag = tag_of(content[at:at + SECTOR], sector)
            allowed = [tag for entry in self.tags.get(sector, [(0,)]) for tag in entry]
            assert tag in allowed, f"sector {sector} holds write {tag}, allowed are {allowed}"
            self.tags[sector] = [(tag,)]


@pytest.mark.parametrize("data_crc", [0, 1])
@pytest.mark.kills
def test_sigkill_after_flush(pair, data_crc):
    """Every flushed byte is there."""
    expected = Expected()
    with Child(pair, "mixed", seed=1, steps=300, data_crc=data_crc) as child:
        child.wait_for("done")
        expected.follow(child.kill())
    assert len(expected.tags) > 1000
    with pair.open() as cache:
        expected.check(read_all(cache))


@pytest.mark.kills
def test_sigkill_takes_only_what_was_not_flushed(pair):
    """The test above can fail: without a flush, keys of open ksets are gone, and old data is read."""
    with Child(pair, "small", steps=100, flush_delay_ms=60000) as child:
        child.wait_for("done")
        child.kill()
    with pair.open() as cache:
        assert read_all(cache) == stamp(0, SIZE, 0)


@pytest.mark.kills
def test_sigkill_after_full_ksets(pair):
    """More than 128 keys of a range: the full ksets are there without a flush, in order."""
    expected = Expected()
    with Child(pair, "small", seed=2, steps=128 * 2 + 20, flush_delay_ms=60000) as child:
        child.wait_for("done")
        lines = child.kill()
    writes = [line for line in lines if line.startswith("w")]
    expected.follow([line for w in writes[:256] for line in (w, "a")] + ["F"])
    expected.follow([line for w in writes[256:] for line in (w, "a")])
    with pair.open() as cache:
        assert cache.status["replay"]["ksets"] == 2
        expected.check(read_all(cache))


@pytest.mark.parametrize("body,data_crc,rounds", [("mixed", 0, 8), ("mixed", 1, 4), ("small", 0, 5)])
@pytest.mark.kills
def test_sigkill_at_any_moment(pair, body, data_crc, rounds):
    """Many lives, each ended by SIGKILL at a (seeded) random step, over what the one before has left."""
    rng = random.Random(f"{body}{data_crc}")
    expected = Expected()
    tag = 0
    for round_ in range(rounds):
        steps = rng.randrange(50, 900)
        with Child(pair, body, seed=rng.random(), tag=tag, steps=5000, data_crc=data_crc) as child:
            child.wait_for(count=steps)
            lines = child.kill()
        assert lines[-1] != "done", "it was not killed in the middle"
        expected.follow(lines)
        expected.killed()
        tag += sum(line.startswith("w") for line in lines)
        if round_ % 2 or round_ == rounds - 1:
            with pair.open() as cache:
                expected.check(read_all(cache))
        # else: the next life starts right on what the kill has left, checked after it


def test_sigkill_while_formatting(fresh_cache_file, backing):
    """Killed at any moment of a first open: blank again, or complete."""
    pair = Pair(fresh_cache_file, backing)
    for round_ in range(4):
        with open(pair.cache_path, "wb") as f:
            f.truncate(512 * MIB)
        with Child(pair, "open") as child:
            if round_ > 0:
                wait_until_formatting(pair, round_)
            child.kill()
        with pair.open() as cache:
            assert read_all(cache) == stamp(0, SIZE, 0)
            cache.write(0, b"f" * PAGE, flags=FUA)
        with pair.open() as cache:
            assert cache.read(0, PAGE) == b"f" * PAGE


def wait_until_formatting(pair, stage):
    """Until so much of the format is seen on media: the first segment, one in the middle, the last."""
    segment = {1: 0, 2: 12, 3: 30}[stage]
    wait_until(lambda: peek(pair.cache_path, SEGMENTS_AT + segment * SEGMENT + 4096, 8) != bytes(8))


FORMAT_MARK = b"PCACHEFM"


@pytest.mark.parametrize("lost", ["superblock", "superblock and cache_info", "all but segment 0"])
def test_format_that_was_cut_off_is_done_again(pair, lost):
    """The superblock's magic is written last, and a mark stands behind it meanwhile: whatever else is there of a
    format, it is done anew."""
    pair.open().close()
    with open(pair.cache_path, "r+b") as f:
        f.write(bytes(SUPERBLOCK + 64))  # no attach has come so far: no identity either
        f.write(FORMAT_MARK)
        if lost != "superblock":
            f.seek(CACHE_INFO)
            f.write(bytes(2 * PAGE))
        if lost == "all but segment 0":
            f.seek(16384)
            f.write(bytes(64))
            for segment in range(1, 31):
                f.seek(SEGMENTS_AT + segment * SEGMENT)
                f.write(bytes(12 * 1024 + 24))
    cache = pair.open()
    assert peek(pair.cache_path, SUPERBLOCK + 64, 8) == bytes(8)
    cache.write(0, b"f" * PAGE, flags=FUA)
    assert pair.reopen(cache).read(0, 2 * PAGE) == b"f" * PAGE + stamp(PAGE, PAGE, 0)


@pytest.mark.kills
def test_log_goes_on_after_sigkill_without_old_ksets(pair):
    """Hazard stale-kset: after a kill the log is written on over ksets that never counted; none may come back."""
    cache = pair.open(flush_delay_ms=60000, writeback_interval_ms=NEVER)
    for n in range(40):  # ksets of one key, each 64 bytes
        cache.write(n * PAGE, stamp(n * PAGE, PAGE, 1), flags=FUA)
    cache.close()
    # Cut the log short after kset 10, as if it had never grown: 11.. stand there, valid, from before.
    with open(pair.cache_path, "r+b") as f:
        f.seek(SEGMENTS_AT + 12 * 1024 + 10 * 64)
        f.write(bytes(24))
    cache = pair.open(flush_delay_ms=60000)
    assert cache.status["replay"]["ksets"] == 10
    assert cache.read(0, 10 * PAGE) == stamp(0, 10 * PAGE, 1)
    cache.write(0, stamp(0, PAGE, 2), flags=FUA)  # one kset of 64 bytes: the next header was a valid one
    assert ksets(pair.cache_path, 0)[-1][0] == 10 * 64
    cache = pair.reopen(cache)
    assert cache.status["replay"]["ksets"] == 11
    assert cache.read(0, 40 * PAGE) == stamp(0, PAGE, 2) + stamp(PAGE, 9 * PAGE, 1) + \
        stamp(10 * PAGE, 30 * PAGE, 0)
