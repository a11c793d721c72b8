# SPDX-License-Identifier: GPL-2.0-or-later
"""A hot set that fits the cache: what is superseded does not go to the disk, and how much dirty data may stay."""

import random

import pytest

from measure.libpcache import MIB, PcacheError
from support import PAGE, SECTOR, read_all, stamp, wait_until

NEVER = 3_600_000
HOT = 16 * MIB  # all of the backing file
CACHE = 512 * MIB
# Of what the user writes, where none of it has to go to the disk. Not 0: what cannot be moved in time is written, and
# what is cheaper is measured. Without the cache's doing all goes there that the cache does not hold, more than half.
FEW = 0.01
REASONS = {"written_idle_bytes", "written_for_space_bytes", "written_through_bytes", "written_at_limit_bytes",
           "written_in_drain_bytes"}


def expect_written_for(reason, writeback):
    """For nothing else. Not that the numbers are equal: while it writes they are read one after the other."""
    assert {name: writeback[name] for name in REASONS - {reason}} == dict.fromkeys(REASONS - {reason}, 0), writeback


def overwrite(cache, times, flush_each=0):
    """Writes the hot set so many times over, in a random order of pages; returns what it holds then."""
    for tag in range(1, times + 1):
        places = random.Random(tag).sample(range(0, HOT, PAGE), HOT // PAGE)
        for at in range(0, len(places), flush_each or len(places)):
            cache.queue.write_each(places[at:at + (flush_each or len(places))], tag.to_bytes(8, "little") * (PAGE // 8))
            if flush_each:
                cache.flush()
    return times.to_bytes(8, "little") * (HOT // 8)


@pytest.mark.parametrize("order,flush_each,is_written", [
    ("strict", 0, False), ("relaxed", 0, False), ("relaxed", 64, False), ("strict", 64, True)])
def test_is_not_written_but_where_flushes_want_it(pair, order, flush_each, is_written):
    """Four times the cache is written. With strict order the disk may not have what came after a flush without what
    came before, so all is written then that the cache has no room for: no page is written twice between two flushes."""
    cache = pair.open(backing_order=order, writeback_interval_ms=NEVER)
    times = 4 * CACHE // HOT
    want = overwrite(cache, times, flush_each)
    writeback = cache.status["writeback"]
    if is_written:
        assert writeback["written_bytes"] >= times * HOT - CACHE, writeback
        assert writeback["superseded_bytes"] <= FEW * times * HOT, writeback
    else:
        assert writeback["written_bytes"] <= FEW * times * HOT, writeback
        assert writeback["superseded_bytes"] >= (1 - FEW) * times * HOT - CACHE, writeback
    expect_written_for("written_for_space_bytes", writeback)
    assert read_all(cache) == want
    cache.drain()
    assert pair.backing_path.read_bytes() == want
    assert cache.status["writeback"]["written_in_drain_bytes"] > 0
    assert cache.status["dirty"]["live_bytes"] == 0


@pytest.mark.parametrize("order", ["strict", "relaxed"])
def test_pages_that_are_left_are_moved(pair, order):
    """One page in eight is written once and never again: it is the live data among what is superseded. All of it has
    left the log's old end when more than twice the cache is written."""
    cache = pair.open(backing_order=order, writeback_interval_ms=NEVER)
    want = bytearray(read_all(cache))
    for off in range(0, HOT, 8 * PAGE):
        want[off:off + PAGE] = stamp(off, PAGE, 1)
        cache.write(off, stamp(off, PAGE, 1))
    hot = [off for off in range(0, HOT, PAGE) if off % (8 * PAGE)]
    for tag in range(1, 81):
        cache.queue.write_each(random.Random(tag).sample(hot, len(hot)), bytes([tag]) * PAGE)
    for off in hot:
        want[off:off + PAGE] = bytes([80]) * PAGE
    writeback = cache.status["writeback"]
    assert writeback["moved_bytes"] + writeback["written_bytes"] >= HOT // 8, writeback
    assert writeback["moved_bytes"] > writeback["written_bytes"], writeback
    assert writeback["written_bytes"] <= FEW * 80 * len(hot) * PAGE, writeback
    assert read_all(cache) == bytes(want)
    cache.close()
    cache = pair.open(writeback_interval_ms=NEVER)
    assert read_all(cache) == bytes(want)
    cache.drain()
    assert pair.backing_path.read_bytes() == bytes(want)


def test_dirty_limits(pair):
    """512 MiB of cache, of which 2 % are 10 MiB; then 0: a cleaner."""
    cache = pair.open(dirty_high_percent=2, dirty_low_percent=1, writeback_interval_ms=NEVER, flush_delay_ms=10)
    want = overwrite(cache, 3)
    wait_until(lambda: not cache.status["writeback"]["cleaning"])
    wait_until(lambda: cache.status["dirty"]["live_bytes"] <= 0.02 * CACHE)
    status = cache.status
    expect_written_for("written_at_limit_bytes", status["writeback"])
    assert status["writeback"]["written_at_limit_bytes"] > 0
    assert status["dirty"]["live_bytes"] > 0
    with pytest.raises(PcacheError, match="dirty_low_percent: 1 is more than dirty_high_percent"):
        cache.set("dirty_high_percent", 0)
    cache.set("dirty_low_percent", 0)
    cache.set("dirty_high_percent", 0)
    wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
    assert pair.backing_path.read_bytes() == want
    cache.write(0, stamp(0, SECTOR, 7))
    wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
    assert pair.backing_path.read_bytes() == stamp(0, SECTOR, 7) + want[SECTOR:]
