# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of the cache device that go bad while it is attached, and a cache file that is cut: nothing dies.

A page is made bad by mapping one of an empty file over it: loads and stores raise SIGBUS there, as poison does. It is
gone with the mapping, so what a later attach finds of a bad page is tested in C++ (core/).
"""

import ctypes as c
import errno
import os
import signal

import pytest

from measure.libpcache import ERROR, FUA, MIB, WARNING, PcacheError
from support import CACHE_CTRL, CACHE_INFO, PAGE, SECTOR, SEGMENT, SEGMENTS_AT, read_all, stamp, wait_until

SIZE = 16 * MIB
DATA = 12288  # in a segment
NEVER = 3_600_000

_libc = c.CDLL(None, use_errno=True)
_libc.mmap.restype = c.c_void_p
_libc.mmap.argtypes = [c.c_void_p, c.c_size_t, c.c_int, c.c_int, c.c_int, c.c_long]


def address_of(path, off):
    for line in open("/proc/self/maps"):
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].strip() == str(path):
            begin, end = (int(part, 16) for part in fields[0].split("-"))
            first = int(fields[2], 16)
            if first <= off < first + end - begin:
                return begin + off - first
    raise AssertionError(f"{path} is not mapped at {off}")


def make_bad(pair, off, pages=1):
    """Pages of the attached cache, from that offset of the device on."""
    prot_read_write, map_shared_fixed = 3, 0x11
    empty = os.memfd_create("bad")
    for n in range(pages):
        at = address_of(pair.cache_path, off // PAGE * PAGE + n * PAGE)
        assert _libc.mmap(at, PAGE, prot_read_write, map_shared_fixed, empty, 0) == at, os.strerror(c.get_errno())
    os.close(empty)


def data_of(segment, off=0):
    return SEGMENTS_AT + segment * SEGMENT + DATA + off


def lines(cache, level=ERROR):
    return [line for at, line in cache.log if at == level]


def place(cache, which="key_head"):
    segment, off = cache.status["log"][which].split(":")
    return int(segment), int(off)


@pytest.mark.parametrize("persist", ["auto", "flushcache", "clflushopt", "clwb", "movdir64b"])
@pytest.mark.parametrize("data_crc", [0, 1])
def test_writes_go_elsewhere(pair, persist, data_crc):
    try:
        cache = pair.open(persist=persist, data_crc=data_crc)
    except PcacheError as error:
        if error.code != errno.ENOTSUP:
            raise
        pytest.skip(f"this CPU has no {persist}")
    bad = [segment for segment in range(1, 8) if segment != place(cache)[0]]
    for segment in bad[:3]:
        make_bad(pair, data_of(segment, 64 * PAGE + segment * MIB))
    want = bytearray(read_all(cache))
    for n, (length, step) in enumerate([(MIB, MIB), (PAGE, 16 * PAGE), (SECTOR, 64 * PAGE)]):
        for off in range(0, SIZE, step):
            want[off:off + length] = stamp(off, length, n + 1)
            cache.write(off, stamp(off, length, n + 1), flags=FUA if off % MIB == 0 else 0)
    for off in range(0, SIZE, MIB):  # until all of the first segments were handed out
        want[off:off + MIB] = stamp(off, MIB, 9)
        cache.write(off, stamp(off, MIB, 9))
    assert read_all(cache) == want
    status = cache.status
    assert status["segments"]["retired"] == 3 and status["media"]["bad_pages"] == 3
    assert not status["media"]["log_failed"]
    assert len(lines(cache)) == 3 and all("takes no more data" in line for line in lines(cache)), cache.log
    cache.drain()
    assert pair.backing_path.read_bytes() == want
    cache = pair.reopen(cache)
    assert read_all(cache) == want


def test_fills_go_elsewhere(pair):
    cache = pair.open()
    make_bad(pair, data_of(1))
    make_bad(pair, data_of(2, PAGE))
    want = pair.backing_path.read_bytes()
    for _ in range(2):
        assert read_all(cache) == want
    assert cache.status["requests"]["errors"] == 0


def test_the_log_goes_on_behind_a_bad_page(pair):
    cache = pair.open(writeback_interval_ms=NEVER)
    want = bytearray(read_all(cache))
    for n in range(500):
        if n % 100 == 0 and n < 400:
            segment, off = place(cache)
            make_bad(pair, data_of(segment, off + PAGE))
        off = n * 37 % 4096 * SECTOR
        want[off:off + SECTOR] = stamp(off, SECTOR, n)
        cache.write(off, stamp(off, SECTOR, n), flags=FUA)
    status = cache.status
    assert status["log"]["rolls"] == 4 and status["segments"]["retired"] == 4
    assert read_all(cache) == want
    cache = pair.reopen(cache)
    assert cache.status["replay"]["dirty_bytes"] == 500 * SECTOR
    assert read_all(cache) == want


def test_a_bad_page_under_the_head_of_the_log(pair):
    """Nothing more can become durable: writes fail, also those that nobody flushes; what was acknowledged stays."""
    cache = pair.open(writeback_interval_ms=NEVER)
    pages = 100
    for n in range(pages):  # ksets of 64 bytes
        cache.write(n * PAGE, stamp(n * PAGE, PAGE, 1), flags=FUA)
    segment, head = place(cache)
    in_front = head // PAGE * PAGE // 64
    assert 0 < in_front < pages
    make_bad(pair, data_of(segment, head))
    for flags in [FUA, 0, 0, FUA]:
        with pytest.raises(OSError) as failed:
            cache.write(SIZE - PAGE, stamp(SIZE - PAGE, PAGE, 2), flags=flags)
        assert failed.value.errno == errno.EIO
    with pytest.raises(OSError):
        cache.flush()
    assert cache.read(0, pages * PAGE) == stamp(0, pages * PAGE, 1)
    assert cache.status["media"]["log_failed"]
    assert len([line for line in lines(cache) if "the log cannot go on" in line]) == 1
    with pytest.raises(PcacheError) as failed:
        cache.drain()
    assert failed.value.code == errno.EIO
    saved = pair.backing_path.read_bytes()[:in_front * PAGE]
    assert saved == stamp(0, in_front * PAGE, 1), "what can be read of the log is saved all the same"
    with pytest.raises(PcacheError) as failed:
        cache.close()
    assert failed.value.code == errno.EIO
    assert pair.open().read(0, pages * PAGE) == stamp(0, pages * PAGE, 1)


def test_a_bad_page_under_the_tails(pair):
    """What is dirty still reaches the disk; no space comes free, so in the end writes fail and do not hang."""
    cache = pair.open(writeback_interval_ms=NEVER)
    make_bad(pair, CACHE_CTRL)
    want = stamp(0, SIZE, 1)
    cache.write(0, want, flags=FUA)
    with pytest.raises(PcacheError) as failed:
        cache.drain()
    assert failed.value.code == errno.EIO and "the next attach will write it there again" in failed.value.text
    assert pair.backing_path.read_bytes() == want
    failed = 0
    for n in range(64):
        try:
            cache.write(0, stamp(0, SIZE, 2))
        except OSError as error:
            assert error.errno == errno.EIO
            failed += 1
    assert failed > 0
    cache.flush()


def test_a_bad_page_under_cache_info(pair):
    cache = pair.open()
    for page in range(2):
        make_bad(pair, CACHE_INFO + page * PAGE)
    with pytest.raises(PcacheError) as failed:
        cache.set_gc_percent(33)
    assert failed.value.code == errno.EIO and "cache_info" in failed.value.text
    assert cache.status["cache"]["gc_percent"] == 70
    assert pair.reopen(cache).status["cache"]["gc_percent"] == 70


@pytest.mark.damages_image
def test_a_cut_file_is_said_once_and_saves_what_it_can(pair):
    cache = pair.open(writeback_interval_ms=NEVER, flush_delay_ms=60000)
    kept = 4 * MIB
    cache.write(0, stamp(0, kept, 1), flags=FUA)
    # In front of the second segment's second half; the log is in segment 0.
    os.truncate(pair.cache_path, data_of(1, 8 * MIB))
    for n in range(40):
        for off in range(kept, SIZE, MIB):
            try:
                cache.write(off, stamp(off, MIB, 2 + n))
            except OSError as error:
                assert error.errno == errno.EIO
    assert cache.read(0, kept) == stamp(0, kept, 1)
    cut = [line for line in lines(cache) if "was cut to" in line]
    assert len(cut) == 1 and str(data_of(1, 8 * MIB)) in cut[0], cache.log
    try:
        cache.drain()
    except PcacheError as error:
        assert error.code == errno.EIO
    assert pair.backing_path.read_bytes()[:kept] == stamp(0, kept, 1)
    try:
        cache.close()
    except PcacheError as error:
        assert error.code == errno.EIO


@pytest.mark.damages_image
def test_a_cut_file_kills_no_thread_of_an_opener_that_blocks_signals(pair):
    """The background's threads inherit its mask, and a fault whose signal is blocked ends the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        cache = pair.open(writeback_interval_ms=1000)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    cache.write(0, stamp(0, MIB, 1), flags=FUA)
    os.truncate(pair.cache_path, data_of(0, PAGE))  # no more than the log is left
    wait_until(lambda: cache.status["writeback"]["bad_extents"] > 0)
    assert [line for line in lines(cache) if "was cut to" in line], cache.log
    with pytest.raises(OSError) as failed:
        cache.read(0, MIB)
    assert failed.value.errno == errno.EIO


@pytest.mark.damages_image
@pytest.mark.parametrize("left", [0, PAGE, CACHE_CTRL, SEGMENTS_AT, data_of(0, PAGE)])
def test_a_file_that_is_cut_to_nearly_nothing(pair, left):
    cache = pair.open(writeback_interval_ms=NEVER, flush_delay_ms=5)
    cache.write(0, stamp(0, SIZE, 1), flags=FUA)
    os.truncate(pair.cache_path, left)
    for _ in range(5):
        for flags in [0, FUA]:
            with pytest.raises(OSError) as failed:
                cache.write(0, stamp(0, SIZE, 2), flags=flags)
            assert failed.value.errno == errno.EIO
    for off in range(0, SIZE, MIB):
        try:
            assert cache.read(off, MIB) in [stamp(off, MIB, 0), stamp(off, MIB, 1)]
        except OSError as error:
            assert error.errno == errno.EIO
    with pytest.raises(PcacheError):
        cache.drain()
    try:
        cache.close()
    except PcacheError as error:
        assert error.code == errno.EIO
    assert [line for line in lines(cache) + lines(cache, WARNING) if "was cut to" in line], cache.log
