# SPDX-License-Identifier: GPL-2.0-or-later
"""Writeback without pressure: by time, by drain, at close; and what it does with damaged data."""

import errno
import random

import pytest

from measure.libpcache import ERROR, FUA, MIB, PcacheError
from support import PAGE, SECTOR, events, patch, read_all, run_threads, stamp, wait_until

SIZE = 16 * MIB
NEVER = 3_600_000
CLEAN = {"ksets": 0, "bytes": 0, "live_bytes": 0}


def scatter(cache, tag=1, flags=0):
    """Writes of all sizes over the device; returns the content that is there then."""
    want, rng = bytearray(read_all(cache)), random.Random(tag)
    for n in range(200):
        length = SECTOR * rng.choice([1, 2, 7, 8, 33, 128, 2048])
        off = rng.randrange(0, SIZE - length + SECTOR, SECTOR)
        want[off:off + length] = stamp(off, length, tag + n)
        cache.write(off, stamp(off, length, tag + n), flags=flags)
    return bytes(want)


# ---- When ----

@pytest.mark.parametrize("data_crc", [0, 1])
def test_idle_cache_is_written_back(pair, data_crc):
    cache = pair.open(data_crc=data_crc, flush_delay_ms=10, writeback_interval_ms=30)
    want = scatter(cache)
    # A kset that is sealed and not yet in the log is neither open nor dirty.
    written = cache.status["requests"]["write_bytes"]
    wait_until(lambda: (now := cache.status)["writeback"]["bytes"] + now["writeback"]["superseded_bytes"] == written
               and now["dirty"] == CLEAN)
    assert cache.status["log"]["open_keys"] == 0
    assert pair.backing_path.read_bytes() == want
    fills = events(cache)["fills"]
    assert cache.read(0, SIZE) == want
    assert events(cache)["fills"] == fills, "what is written back stays cached"
    assert cache.status["reclaim"]["ksets"] == 0, "there was no reason to reclaim"
    assert pair.reopen(cache).status["replay"]["dirty_bytes"] == 0


def test_nothing_is_written_back_before_its_time(pair):
    before = pair.backing_path.read_bytes()
    cache = pair.open(writeback_interval_ms=NEVER)
    scatter(cache, flags=FUA)
    assert cache.status["writeback"]["batches"] == 0 and cache.status["dirty"]["ksets"] > 0
    assert pair.backing_path.read_bytes() == before


@pytest.mark.parametrize("data_crc", [0, 1])
@pytest.mark.parametrize("flush_delay_ms", [1, 60000])
def test_drain(pair, data_crc, flush_delay_ms):
    """Also what is named by open ksets only; and again; and with nothing to do."""
    cache = pair.open(data_crc=data_crc, flush_delay_ms=flush_delay_ms, writeback_interval_ms=NEVER)
    cache.drain()
    assert cache.status["writeback"]["flushes"] == 0
    for tag in (1, 1000):
        want = scatter(cache, tag)
        cache.drain()
        assert cache.status["dirty"] == CLEAN and cache.status["log"]["open_keys"] == 0
        assert pair.backing_path.read_bytes() == want
    assert read_all(cache) == want
    flushes = cache.status["writeback"]["flushes"]
    cache.drain()
    assert cache.status["writeback"]["flushes"] == flushes, "there was nothing to write back"
    cache = pair.reopen(cache, writeback_interval_ms=NEVER)
    assert cache.status["replay"]["dirty_bytes"] == 0 and read_all(cache) == want


def test_drain_while_others_write(pair):
    """Drains from one thread, writes from others: all that had completed before a drain is there after it."""
    cache = pair.open(writeback_interval_ms=NEVER)
    rounds, part = 40, SIZE // 4
    ahead = [0] * 3

    def writer(number):
        queue = cache.new_queue()

        def body():
            for n in range(1, rounds + 1):
                queue.write(number * part, stamp(number * part, MIB, n), flags=FUA if n % 3 == 0 else 0)
                ahead[number] = n
        return body

    def drainer():
        while min(ahead) < rounds:
            before = list(ahead)
            cache.drain()
            with open(pair.backing_path, "rb") as f:
                for number, least in enumerate(before):
                    f.seek(number * part)
                    tag = int.from_bytes(f.read(8), "little")
                    assert tag >= least, f"writer {number} had done {least}, on the device is {tag}"

    run_threads(*map(writer, range(3)), drainer)
    cache.drain()
    assert pair.backing_path.read_bytes() == b"".join(
        stamp(n * part, MIB, rounds) + stamp(n * part + MIB, part - MIB, 0) for n in range(3)) + \
        stamp(3 * part, part, 0)


@pytest.mark.parametrize("drain", [0, 1])
def test_close(pair, drain):
    """drain=1: the backing file has it all. Default: it stays in pmem, and is there after reopening."""
    before = pair.backing_path.read_bytes()
    cache = pair.open(drain=drain, writeback_interval_ms=NEVER, flush_delay_ms=60000)
    want = scatter(cache)
    cache.close()
    assert pair.backing_path.read_bytes() == (want if drain else before)
    cache = pair.open(writeback_interval_ms=NEVER)
    assert (cache.status["replay"]["dirty_bytes"] == 0) == bool(drain)
    assert read_all(cache) == want


def test_each_sector_of_the_newest_is_written_once(pair):
    """Hazard flush-for-each-kset: superseded data is not written, neighbours go in one write, one flush a batch."""
    cache = pair.open(writeback_interval_ms=NEVER)
    for tag in range(1, 9):
        places = [n * PAGE for n in random.Random(tag).sample(range(1024), 1024)]
        cache.queue.write_each(places, b"%d" % tag * PAGE)
    cache.drain()
    writeback = cache.status["writeback"]
    assert writeback["bytes"] + writeback["superseded_bytes"] == 8 * 4 * MIB
    assert writeback["keys"] + writeback["superseded_keys"] == 8 * 1024
    assert writeback["written_bytes"] <= 2 * 4 * MIB, "superseded data was written"
    assert writeback["writes"] <= 2 * 4 * MIB // (128 << 10), "neighbours were not merged"
    assert writeback["flushes"] <= writeback["batches"] <= 4
    assert pair.backing_path.read_bytes() == b"8" * (4 * MIB) + stamp(4 * MIB, 12 * MIB, 0)


@pytest.mark.parametrize("data_crc", [0, 1])
def test_many_flushes(pair, data_crc):
    """Writers that flush after every few writes, with writeback every few milliseconds."""
    cache = pair.open(data_crc=data_crc, writeback_interval_ms=2, flush_delay_ms=2)
    part, want = SIZE // 4, bytearray(stamp(0, SIZE, 0))

    def writer(number):
        queue, rng = cache.new_queue(), random.Random(number)

        def body():
            for tag in range(1, 400):
                length = SECTOR * rng.choice([1, 3, 8, 64])
                off = number * part + rng.randrange(0, MIB - length + SECTOR, SECTOR)
                queue.write(off, stamp(off, length, tag), flags=FUA if tag % 7 == 0 else 0)
                want[off:off + length] = stamp(off, length, tag)
                if tag % 3 == 0:
                    queue.flush()
                assert queue.read(off, length) == stamp(off, length, tag)
        return body

    run_threads(*map(writer, range(4)))
    wait_until(lambda: cache.status["writeback"]["batches"] > 0)
    assert read_all(cache) == bytes(want)
    cache = pair.reopen(cache, writeback_interval_ms=NEVER)
    assert read_all(cache) == bytes(want)
    cache.drain()
    assert pair.backing_path.read_bytes() == bytes(want)


# ---- gc_percent ----

def test_gc_percent_at_run_time(pair):
    """Takes effect at once, and stays over a reopen."""
    cache = pair.open(gc_percent=90, writeback_interval_ms=NEVER)
    for n in range(256):
        cache.write(n % 16 * MIB, stamp(n % 16 * MIB, MIB, n))
    cache.drain()
    used = cache.status["segments"]["used"]
    assert used > 15 and cache.status["reclaim"]["ksets"] == 0
    cache.set_gc_percent(20)
    assert cache.info.gc_percent == cache.status["cache"]["gc_percent"] == 20
    wait_until(lambda: cache.status["segments"]["used"] * 100 < 20 * 31)
    assert cache.status["reclaim"]["keys"] > 0
    assert read_all(cache) == b"".join(stamp(n * MIB, MIB, 240 + n) for n in range(16))
    cache = pair.reopen(cache)
    assert cache.info.gc_percent == 20
    cache.set_gc_percent(0)
    cache = pair.reopen(cache)
    assert cache.info.gc_percent == 0
    assert pair.reopen(cache, gc_percent=55).info.gc_percent == 55


@pytest.mark.parametrize("percent", [-1, 91, 100, 256, 256 + 70, -256, 2**31 - 1])
def test_gc_percent_out_of_range(pair, percent):
    """Hazard option-truncated: refused with a line, and nothing is changed."""
    cache = pair.open(gc_percent=33)
    with pytest.raises(PcacheError) as refused:
        cache.set_gc_percent(percent)
    assert refused.value.code == errno.EINVAL
    assert str(percent) in refused.value.text and "0..90" in refused.value.text
    assert cache.info.gc_percent == 33
    assert pair.reopen(cache).info.gc_percent == 33


# ---- Damaged data ----

def flip_bit_of(path, content):
    """In the only place of the cache file where that content stands."""
    with open(path, "rb") as f:
        data = f.read()
    at = data.find(content, 20 << 10)
    assert at >= 0 and data.find(content, at + 1) < 0
    patch(path, at + len(content) // 2, bytes([data[at + len(content) // 2] ^ 4]))


BAD = 5 * MIB + 3 * SECTOR  # and the page behind it


def blank(path):
    with open(path, "wb") as f:
        f.truncate(512 * MIB)


def with_bad_dirty_data(pair):
    """All of 4..8 MiB is dirty, in writes of a page; the one at BAD is damaged. What would be there."""
    blank(pair.cache_path)  # no stamps of earlier lives
    cache = pair.open(data_crc=1, writeback_interval_ms=NEVER)
    want = bytearray(stamp(0, SIZE, 0))
    for off in range(4 * MIB + 3 * SECTOR, 8 * MIB - PAGE, PAGE):
        want[off:off + PAGE] = stamp(off, PAGE, off)
        cache.write(off, stamp(off, PAGE, off))
    cache.close()
    flip_bit_of(pair.cache_path, stamp(BAD, PAGE, BAD))
    return bytes(want)


def fails(cache, off, length):
    with pytest.raises(OSError) as failed:
        cache.read(off, length)
    assert failed.value.errno == errno.EIO


def check_bad(cache, want):
    """EIO for exactly the damaged page."""
    for off in range(BAD, BAD + PAGE, SECTOR):
        fails(cache, off, SECTOR)
    fails(cache, BAD - SECTOR, 2 * SECTOR)
    fails(cache, 4 * MIB, 2 * MIB)
    assert cache.read(0, BAD) == want[:BAD]
    assert cache.read(BAD + PAGE, SIZE - BAD - PAGE) == want[BAD + PAGE:]


def check_drained(pair, want):
    """The backing file has all of it, and its old bytes at the damaged page."""
    assert pair.backing_path.read_bytes() == want[:BAD] + stamp(BAD, PAGE, 0) + want[BAD + PAGE:]


def refused_drain(cache):
    with pytest.raises(PcacheError) as failed:
        cache.drain()
    assert failed.value.code == errno.EIO and "damaged" in failed.value.text
    assert "1 extent" in failed.value.text


@pytest.mark.damages_image
@pytest.mark.parametrize("check", ["attach", "read"])
def test_bad_dirty_data(pair, check):
    """Damaged dirty data is an error to read, is never written back, and holds nothing else up. Over reopens.

    Hazards media-error-is-clean, reads-not-verified."""
    want = with_bad_dirty_data(pair)
    how = {"writeback_interval_ms": NEVER, "data_crc_check": check}
    cache = pair.open(**how)
    assert cache.status["replay"]["bad_dirty_extents"] == (check == "attach")
    assert cache.status["replay"]["data_crc_check"] == check
    check_bad(cache, want)
    assert events(cache)["bad_dirty_reads"] > 0
    for _ in range(3):
        refused_drain(cache)
        assert cache.status["writeback"]["bad_extents"] == 1
        check_drained(pair, want)
        check_bad(cache, want)
        lines = [line for level, line in cache.log if level == ERROR and f"{BAD}+{PAGE}" in line]
        assert len(lines) >= 1, cache.log
        cache = pair.reopen(cache, **how)
        assert cache.status["replay"]["dirty_bytes"] == PAGE
    assert cache.status["writeback"]["state"] == "ok"


@pytest.mark.parametrize("first", ["drain", "reopen", "nothing"])
def test_bad_dirty_data_is_healed_by_overwriting(pair, first):
    want = with_bad_dirty_data(pair)
    cache = pair.open(writeback_interval_ms=NEVER)
    if first != "nothing":
        refused_drain(cache)
    if first == "reopen":
        cache = pair.reopen(cache, writeback_interval_ms=NEVER)
    cache.write(BAD, stamp(BAD, PAGE, 7))
    want = want[:BAD] + stamp(BAD, PAGE, 7) + want[BAD + PAGE:]
    assert read_all(cache) == want
    cache.drain()
    assert cache.status["dirty"] == CLEAN
    assert pair.backing_path.read_bytes() == want
    cache = pair.reopen(cache, writeback_interval_ms=NEVER)
    assert cache.status["replay"]["bad_dirty_extents"] == 0
    assert read_all(cache) == want
    cache.drain()


@pytest.mark.parametrize("length", [SECTOR, 3 * SECTOR])
@pytest.mark.damages_image
def test_bad_dirty_data_overwritten_in_part(pair, length):
    """What is left of it stays bad: its crc cannot be right for the rest alone."""
    want = with_bad_dirty_data(pair)
    cache = pair.open(writeback_interval_ms=NEVER)
    cache.write(BAD, stamp(BAD, length, 7))
    for _ in range(2):
        assert cache.read(BAD, length) == stamp(BAD, length, 7)
        for off in range(BAD + length, BAD + PAGE, SECTOR):
            fails(cache, off, SECTOR)
        with pytest.raises(PcacheError):
            cache.drain()
        assert pair.backing_path.read_bytes() == want[:BAD] + stamp(BAD, length, 7) + \
            stamp(BAD + length, PAGE - length, 0) + want[BAD + PAGE:]
        cache = pair.reopen(cache, writeback_interval_ms=NEVER)


@pytest.mark.damages_image
def test_bad_dirty_data_does_not_stop_writeback(pair):
    """Hazard media-error-is-clean: written back by time, too; and the cache goes on under pressure."""
    want = bytearray(with_bad_dirty_data(pair))
    cache = pair.open(writeback_interval_ms=20)
    wait_until(lambda: cache.status["writeback"]["bad_extents"] == 1)
    wait_until(lambda: cache.status["dirty"]["bytes"] <= PAGE)
    check_drained(pair, bytes(want))
    for n in range(2 * 512):
        off = (8 + n % 8) * MIB
        want[off:off + MIB] = stamp(off, MIB, n % 8 + 8 * (n // 512))
        cache.write(off, stamp(off, MIB, n % 8 + 8 * (n // 512)))
    check_bad(cache, bytes(want))
    refused_drain(cache)
    check_drained(pair, bytes(want))


@pytest.mark.damages_image
def test_close_with_drain_reports_bad_dirty_data(pair):
    """Hazard last-flush-ignored: the last writeback of a stop is not ignored when it fails."""
    want = with_bad_dirty_data(pair)
    cache = pair.open(drain=1, writeback_interval_ms=NEVER)
    with pytest.raises(PcacheError) as failed:
        cache.close()
    assert failed.value.code == errno.EIO and "damaged" in failed.value.text
    check_drained(pair, want)
    check_bad(pair.open(writeback_interval_ms=NEVER), want)


@pytest.mark.parametrize("check", ["attach", "read"])
def test_bad_clean_data_is_read_again(pair, check):
    """Hazard reads-not-verified: dropped, and fetched from the backing file; after a reopen and while it is open."""
    blank(pair.cache_path)
    cache = pair.open(data_crc=1, writeback_interval_ms=NEVER)
    for off in range(0, MIB, PAGE):
        assert cache.read(off, PAGE) == stamp(off, PAGE, 0)
    cache.close()
    flip_bit_of(pair.cache_path, stamp(64 * PAGE, PAGE, 0))
    cache = pair.open(writeback_interval_ms=NEVER, data_crc_check=check)
    assert cache.status["replay"]["bad_clean_dropped"] == (check == "attach")
    assert cache.read(0, MIB) == stamp(0, MIB, 0)
    assert cache.status["replay"]["bad_clean_dropped"] + events(cache)["bad_clean_dropped"] == 1
    assert events(cache)["fill_bytes"] == PAGE
    cache.drain()
    flip_bit_of(pair.cache_path, stamp(7 * PAGE, PAGE, 0))
    assert cache.read(0, MIB) == stamp(0, MIB, 0)
    assert events(cache)["bad_clean_dropped"] >= 1 and events(cache)["fill_bytes"] == 2 * PAGE
    assert cache.status["requests"]["errors"] == 0


def test_bad_data_without_crc_is_not_noticed(pair):
    """The tests above can fail."""
    blank(pair.cache_path)
    cache = pair.open(data_crc=0, writeback_interval_ms=NEVER)
    cache.write(BAD, stamp(BAD, PAGE, 9))
    cache.close()
    flip_bit_of(pair.cache_path, stamp(BAD, PAGE, 9))
    cache = pair.open(writeback_interval_ms=NEVER)
    assert cache.read(BAD, PAGE) != stamp(BAD, PAGE, 9)
    cache.drain()
