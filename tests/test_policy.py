# SPDX-License-Identifier: GPL-2.0-or-later
"""What stays in the cache, and which misses it lets pass: policy, seq_cutoff."""

import random

import pytest

from measure.libpcache import MIB
from support import PAGE, read_all, stamp

NEVER = 3_600_000
PERCENT = 30  # gc_percent: reclaim begins at 9 segments of 31, as far as writeback has come: a drain takes it along
KEPT = 9 * 16 * MIB
NUMBERED = 32 * MIB
DISK = NUMBERED + 4 * KEPT


def page(number):
    return number.to_bytes(8, "little") * (PAGE // 8)


@pytest.fixture
def wide(pair):
    """A backing file of four times what the cache keeps at PERCENT, and more; the first pages have their number."""
    with open(pair.backing_path, "wb") as file:
        for number in range(NUMBERED // PAGE):
            file.write(page(number))
        file.truncate(DISK)
    return pair


def read_pages(cache, numbers):
    """Reads these pages, checks them, and returns how many were in the cache."""
    before = cache.status["requests"]["read_hits"]
    for number in numbers:
        assert cache.read(number * PAGE, PAGE) == page(number)
    return cache.status["requests"]["read_hits"] - before


def scan_beside(cache, hot):
    """Reads four times what the cache keeps, and a hot page after each 16 KiB; returns the hit ratio of these."""
    chosen = random.Random(1)
    before = cache.status["requests"]["read_hits"]
    for off in range(NUMBERED, DISK, 16 * 1024):
        cache.read(off, 16 * 1024)
        number = chosen.randrange(hot)
        assert cache.read(number * PAGE, PAGE) == page(number)
        if off % (16 * MIB) == 0:
            cache.drain()
    return (cache.status["requests"]["read_hits"] - before) / ((DISK - NUMBERED) // (16 * 1024))


@pytest.mark.parametrize("attached,policy,stays", [
    ("fifo", "fifo", False), ("second_chance", "second_chance", True), ("adaptive", "adaptive", True),
    ("fifo", "second_chance", True), ("fifo", "adaptive", True), ("second_chance", "adaptive", True)])
def test_what_is_read_often_stays(wide, attached, policy, stays):
    """1 MiB is read again after each 16 MiB of what is read once; also where the policy was set after the attach."""
    cache = wide.open(policy=attached, gc_percent=PERCENT, writeback_interval_ms=NEVER)
    cache.set("policy", policy)
    assert cache.status["policy"]["kind"] == policy
    hot = range(256)
    read_pages(cache, hot)
    hits = 0
    rounds = range(NUMBERED, DISK, 16 * MIB)
    for begin in rounds:
        for off in range(begin, begin + 16 * MIB, 64 * 1024):
            cache.read(off, 64 * 1024)
        hits += read_pages(cache, hot)
        cache.drain()
    status = cache.status
    assert status["policy"]["kept_bytes"] > 0 if stays else status["policy"]["kept_bytes"] == 0
    if stays:
        assert hits >= 0.98 * len(rounds) * len(hot), status
    else:
        assert hits < 0.9 * len(rounds) * len(hot), status


@pytest.mark.parametrize("policy", ["second_chance", "adaptive"])
def test_what_stays_is_what_was_written(wide, policy):
    """Pages are written, written back, read and kept, over several times what the cache keeps, and over a crash."""
    cache = wide.open(policy=policy, gc_percent=PERCENT, writeback_interval_ms=NEVER)
    chosen = random.Random(2)
    want = {}
    for tag in range(12):
        for number in chosen.sample(range(4096), 512):
            want[number] = stamp(number, PAGE, tag)
            cache.write(number * PAGE, want[number])
        cache.drain()
        for _ in range(2):
            for number in range(0, 4096, 3):
                assert cache.read(number * PAGE, PAGE) == want.get(number, page(number))
        for off in range(NUMBERED + 16 * MIB * tag, NUMBERED + 16 * MIB * (tag + 1), 64 * 1024):
            cache.read(off, 64 * 1024)
    assert cache.status["policy"]["kept_bytes"] > 0
    assert cache.status["dirty"]["live_bytes"] == 0
    cache = wide.reopen(cache)
    for number in range(4096):
        assert cache.read(number * PAGE, PAGE) == want.get(number, page(number))
    cache.close()
    disk = wide.backing_path.read_bytes()
    for number in range(4096):
        assert disk[number * PAGE:(number + 1) * PAGE] == want.get(number, page(number))


def test_a_scan_of_four_caches_does_not_wash_away_a_hot_set(wide):
    """Of the hot set's reads at most two points of a hundred fewer hit."""
    cache = wide.open(gc_percent=PERCENT, writeback_interval_ms=NEVER)
    hot = 16 * MIB // PAGE
    chosen = random.Random(3)
    for _ in range(4):
        read_pages(cache, chosen.sample(range(hot), hot))
        cache.drain()
    before = read_pages(cache, [chosen.randrange(hot) for _ in range(hot)]) / hot
    assert before > 0.98
    assert scan_beside(cache, hot) >= before - 0.02, cache.status["policy"]


def sequential(cache, length):
    """Reads so much from the beginning; returns how many bytes were cached of it, and how many were let pass."""
    before = cache.status["events"]
    for off in range(0, length, 64 * 1024):
        cache.read(off, 64 * 1024)
    now = cache.status["events"]
    return tuple(now[name] - before[name] for name in ("fill_kept_bytes", "fill_bypassed_bytes"))


def test_long_sequential_reads_pass(pair):
    cache = pair.open(seq_cutoff=MIB)
    assert cache.status["policy"]["seq_cutoff"] == MIB
    assert sequential(cache, 8 * MIB) == (MIB, 7 * MIB)
    assert sequential(cache, 8 * MIB) == (MIB, 6 * MIB), "the first is a hit, and the run begins behind it"
    chosen = random.Random(4).sample(range(8 * MIB, 16 * MIB, PAGE), 1024)
    cache_before = cache.status["events"]["fill_kept_bytes"]
    for off in chosen:
        cache.read(off, PAGE)
    assert cache.status["events"]["fill_kept_bytes"] - cache_before > 1000 * PAGE, "at random"
    cache.set("seq_cutoff", "0")
    assert sequential(cache, 8 * MIB) == (6 * MIB, 0)
    assert read_all(cache) == pair.backing_path.read_bytes()


def test_small_sequential_reads_are_read_ahead(pair):
    """One read of the device for many of 4 KiB, in a row; a later write and random reads are as they were."""
    content = pair.backing_path.read_bytes()
    cache = pair.open(read_ahead=256 * 1024)
    for off in range(0, 8 * MIB, PAGE):
        assert cache.read(off, PAGE) == content[off:off + PAGE]
    events = cache.status["events"]
    assert events["fills"] < 2 * (8 * MIB // (256 * 1024) + 16) and events["fill_ahead_bytes"] > 7 * MIB
    assert events["fill_kept_bytes"] >= 8 * MIB
    for off in random.Random(4).sample(range(9 * MIB, 16 * MIB, 64 * PAGE), 28):
        cache.read(off, PAGE)
    assert cache.status["events"]["fill_ahead_bytes"] == events["fill_ahead_bytes"], "at random"
    assert read_all(cache) == content


def test_without_a_cutoff_all_is_cached(pair):
    """And what is written is always cached."""
    cache = pair.open()
    assert sequential(cache, 16 * MIB) == (16 * MIB, 0)
    cache = pair.reopen(cache, seq_cutoff=4096)
    for off in range(0, 8 * MIB, 64 * 1024):
        cache.write(off, stamp(off, 64 * 1024, 1))
    assert cache.status["dirty"]["live_bytes"] == 8 * MIB
