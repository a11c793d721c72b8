# SPDX-License-Identifier: GPL-2.0-or-later
"""A full cache: until there is writeback, writes answer ENOSPC and everything else goes on."""

import errno
import random
import threading

import pytest

from libpcache import FUA, MIB, WRITE, Request
from support import PAGE, SECTOR, events, read_all, stamp

SIZE = 16 * MIB


def fill_up(cache, want, length=MIB, flags=0, tag=1):
    """Writes the device over and over until ENOSPC; returns the extent that failed."""
    while True:
        for off in range(0, SIZE, length):
            data = stamp(off, length, tag)
            request = Request(WRITE, off, data, flags=flags)
            assert cache.queue.submit(request)
            if request.result:
                assert -request.result == errno.ENOSPC
                return off, tag
            want[off:off + length] = data
        tag += 1
        assert tag < 1000, "it never became full"


def check_content(content, want, failed_off, failed_len, failed_tag):
    """As acknowledged; the failed write may have changed any of its range."""
    new = stamp(failed_off, failed_len, failed_tag)
    for at in range(0, SIZE, MIB):
        if content[at:at + MIB] == want[at:at + MIB]:
            continue
        for sector in range(at, at + MIB, SECTOR):
            got = content[sector:sector + SECTOR]
            if failed_off <= sector < failed_off + failed_len:
                assert got in (want[sector:sector + SECTOR],
                               new[sector - failed_off:sector - failed_off + SECTOR])
            else:
                assert got == want[sector:sector + SECTOR], f"at {sector}"


@pytest.mark.parametrize("data_crc", [0, 1])
@pytest.mark.parametrize("length,flags", [(MIB, 0), (MIB, FUA), (64 * 1024, 0)])
def test_full_cache(pair, data_crc, length, flags):
    cache = pair.open(data_crc=data_crc)
    want = bytearray(stamp(0, SIZE, 0))
    off, tag = fill_up(cache, want, length, flags)
    status = cache.status
    assert status["events"]["writes_on_full_cache"] >= 1
    assert status["segments"]["free"] >= 1, "the log's reserve is gone"
    check_content(read_all(cache), want, off, length, tag)

    # It stays usable: reads, flushes, refusals; and a write says so again.
    cache.flush()
    request = Request(WRITE, 0, stamp(0, MIB, 99))
    assert cache.queue.submit(request) and -request.result == errno.ENOSPC
    before = read_all(cache)
    cache = pair.reopen(cache)
    after = read_all(cache)
    assert after == before, "reopened, it reads as before"
    cache.flush()
    pair.reopen(cache).close()


def test_reads_on_a_full_cache_are_not_cached(pair):
    """Half of the device is written until the cache is full; the other half is read cold."""
    cache = pair.open()
    tag = 0
    while True:
        tag += 1
        off = tag % 8 * MIB
        request = Request(WRITE, off, stamp(off, MIB, tag))
        cache.queue.submit(request)
        if request.result:
            break
    for _ in range(3):
        assert cache.read(8 * MIB, 8 * MIB) == stamp(8 * MIB, 8 * MIB, 0)
    got = events(cache)
    assert got["fills_uncached"] > 0
    assert got["backing_errors"] == 0


def test_tiny_fua_writes_into_a_full_cache(pair):
    """Hazard 9: data of 512 bytes, each with a kset of its own, must not eat the log's reserve."""
    cache = pair.open()
    want = bytearray(stamp(0, SIZE, 0))
    while cache.status["segments"]["free"] > cache.status["segments"]["reserved_for_log"] + 1:
        for off in range(0, 12 * MIB, MIB):
            want[off:off + MIB] = stamp(off, MIB, 1)
            cache.write(off, stamp(off, MIB, 1))
    places = [12 * MIB + n % 1024 * SECTOR for n in range(200_000)]
    written, error = cache.queue.write_each(places, b"t" * SECTOR, flags=FUA)
    assert error == errno.ENOSPC and written > 1024
    want[12 * MIB:12 * MIB + 1024 * SECTOR] = b"t" * (1024 * SECTOR)
    assert read_all(cache) == bytes(want)
    assert cache.status["segments"]["free"] >= 1
    cache.flush()
    assert read_all(pair.reopen(cache)) == bytes(want)


def test_full_of_open_ksets(pair):
    """Hazard 9: the data that fills the cache is named by ksets that are still open: they can be closed."""
    cache = pair.open(flush_delay_ms=60000)
    rng = random.Random(4)
    want = bytearray(stamp(0, SIZE, 0))
    tag = 0
    while True:
        tag += 1
        off = rng.randrange(0, SIZE - MIB, SECTOR)
        request = Request(WRITE, off, stamp(off, MIB, tag))
        cache.queue.submit(request)
        if request.result:
            failed = off, tag
            break
        want[off:off + MIB] = stamp(off, MIB, tag)
    assert cache.status["log"]["open_keys"] > 0
    cache.flush()
    assert cache.status["log"]["open_keys"] == 0
    content = read_all(pair.reopen(cache))
    check_content(content, want, failed[0], MIB, failed[1])


def test_threads_on_a_full_cache_end(pair):
    """Writers that meet the end together: each gets its ENOSPC, none waits."""
    cache = pair.open()
    results = []

    def writer(number):
        queue = cache.new_queue()

        def body():
            count = 0
            while True:
                request = Request(WRITE, number * 4 * MIB, stamp(number * 4 * MIB, MIB, count % 8))
                assert queue.submit(request)
                if request.result:
                    results.append((number, -request.result, count))
                    return
                count += 1
                if count % 10 == 0:
                    queue.flush()
        return body

    threads = [threading.Thread(target=writer(n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r[1] for r in results] == [errno.ENOSPC] * 4
    cache.flush()
    content = read_all(cache)
    assert read_all(pair.reopen(cache)) == content


def test_close_of_a_full_cache_is_no_error(pair):
    cache = pair.open()
    fill_up(cache, bytearray(SIZE))
    cache.close()


def test_larger_cache_size_does_not_help_a_formatted_cache(pair):
    """The format's segments are counted once: extending is allowed and changes nothing but the file."""
    cache = pair.open()
    want = bytearray(stamp(0, SIZE, 0))
    fill_up(cache, want)
    cache = pair.reopen(cache, cache_size=544 * MIB)
    assert cache.info.segments == 31
    request = Request(WRITE, 0, bytes(PAGE))
    assert cache.queue.submit(request) and -request.result == errno.ENOSPC
