# SPDX-License-Identifier: GPL-2.0-or-later
"""Images written by the kernel's dm-pcache: read as the kernel reads them, damaged ones as told.

A test of an image that is not there is skipped, and the run says so at its end.
"""

import errno
import hashlib
import random

import pytest

from measure.libpcache import FUA, MIB, READ, PcacheError, Request
from support import (CACHE_CTRL, CACHE_INFO, PAGE, SECTOR, SEGMENT, SEGMENTS_AT, Pair, golden_case,
                     golden_damaged, golden_images, make_backing, newest_tails, peek, read_all, sealed, stamp)

def sha256(content):
    return hashlib.sha256(content).hexdigest()


# ---- Good images ----

@pytest.mark.parametrize("image", golden_images())
def test_content_is_what_the_kernel_read(golden, shm, disk, image):
    pair = golden.copy(image["name"], shm, disk)
    for attach in ("first", "second"):
        with pair.open() as cache:
            assert cache.info.logical_bytes == image["logical_bytes"]
            assert sha256(read_all(cache)) == image["logical_sha256_kernel"], f"{attach} attach"
            notices = [line for _level, line in cache.log if "identity" in line]
            assert bool(notices) == (attach == "first"), "attached with a notice, once"


@pytest.mark.parametrize("image", golden_images())
def test_status_line_has_the_kernels_fields(golden, shm, disk, image):
    """The line of an untouched image. What moves by itself in the kernel is read from the image.

    The kernel writes back as it runs, so dirty_tail in its own lines is later than the image's. Ours reclaims
    from attach on where the image is above gc_percent.
    """
    pair = golden.copy(image["name"], shm, disk)
    after = image["status_after_reattach"].split()
    kernel = (image["status_before_stop_or_crash"] or image["status_after_reattach"]).split()
    untouched = newest_tails(pair.cache_path)
    with pair.open() as cache:
        tails = None
        while tails != (tails := newest_tails(pair.cache_path)):
            ours = cache.status_line.split()
            status = cache.status
    assert len(ours) == len(kernel) == 12
    names = ["start", "sectors", "target", "sb_flags", "seg_total", "cache_segs", "segs_used", "gc_percent",
             "cache_flags", "key_head", "dirty_tail", "key_tail"]
    for at, name in enumerate(names):
        if name not in ("segs_used", "key_head", "dirty_tail", "key_tail"):
            assert ours[at] == kernel[at], name
    if image["status_before_stop_or_crash"]:
        assert int(ours[6]) <= int(kernel[6]), "segs_used"
        assert ours[6] == kernel[6] or tails != untouched, "segs_used, nothing reclaimed"
    assert ours[9] in (kernel[9], after[9]), "key_head: where the kernel's log ended"
    for name, tail in tails.items():
        assert ours[names.index(name)] == tail, name
    assert ours[9:] == [status["log"][name] for name in ("key_head", "dirty_tail", "key_tail")]


@pytest.mark.parametrize("name", ["b_mixed_crcoff", "c_mixed_crcon", "d_crash_crcoff", "d_crash_crcon",
                                  "e_gc_crcoff", "x_gcwindow_crafted_crcoff"])
def test_written_on_after_the_kernel(golden, ctl, shm, disk, name):
    """Our writes over an image of the kernel's, against a model: reopened, checked, exported."""
    pair = golden.copy(name, shm, disk)
    rng = random.Random(name)
    cache = pair.open()
    size = cache.info.logical_bytes
    want = bytearray(read_all(cache))
    for tag in range(1, 400):
        length = SECTOR * rng.choice([1, 2, 7, 8, 16, 33, 128])
        off = rng.randrange(0, size - length + SECTOR, SECTOR)
        want[off:off + length] = stamp(off, length, tag)
        cache.write(off, stamp(off, length, tag), flags=FUA if tag % 20 == 0 else 0)
        if tag % 50 == 0:
            cache.flush()
    assert read_all(cache) == bytes(want)
    cache = pair.reopen(cache)
    assert read_all(cache) == bytes(want)
    for tag in range(400, 500):
        off = rng.randrange(0, size - PAGE, SECTOR)
        want[off:off + PAGE] = stamp(off, PAGE, tag)
        cache.write(off, stamp(off, PAGE, tag))
    cache.close()
    assert ctl.json("check", pair.cache_path, "--backing", pair.backing_path)["attaches"]
    ctl.run("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole")
    assert (disk / "whole").read_bytes() == bytes(want)
    assert read_all(pair.open()) == bytes(want)


@pytest.mark.parametrize("name", ["e_gc_crcoff", "x_gcwindow_crafted_crcoff"])
def test_kernel_image_under_pressure(golden, shm, disk, name):
    """Hazard dead-key-references: a log of the kernel's is written back and reclaimed while 1 GiB is written."""
    pair = golden.copy(name, shm, disk)
    with pair.open(gc_percent=0, writeback_interval_ms=3_600_000) as cache:
        want = bytearray(read_all(cache))
        assert sha256(bytes(want)) == golden.entry(name)["logical_sha256_kernel"]
        size, rng = len(want), random.Random(9)
        for tag in range(1024):
            off = rng.randrange(0, size // 4 - MIB, SECTOR)  # the rest must stay as the kernel has left it
            cache.write(off, stamp(off, MIB, tag))
            want[off:off + MIB] = stamp(off, MIB, tag)
        assert cache.status["reclaim"]["keys"] > 0
        assert read_all(cache) == bytes(want)
    with pair.open() as cache:
        assert read_all(cache) == bytes(want)
        cache.drain()
        assert pair.backing_path.read_bytes() == bytes(want)


def test_kernel_image_to_another_disk_is_refused_after_the_first_attach(golden, shm, disk):
    """An image without identity is taken as it is, and from then on it belongs to that backing device."""
    pair = golden.copy("d_crash_crcoff", shm, disk)
    pair.open().close()
    other = Pair(pair.cache_path, make_backing(disk / "other", 64 * MIB))
    with pytest.raises(PcacheError) as refused:
        other.open()
    assert refused.value.code == errno.EXDEV


# ---- A blank device, formatted by us and by the kernel ----

def test_format_is_the_kernels(golden, shm):
    """Byte for byte, but for the identity block and the cache_info that the attach after it writes.

    The kernel formats as part of its first attach and leaves cache_info in slot 1 alone; ours formats, then
    attaches as always, which writes slot 0. The format alone has no C entry: a C++ test can compare it.
    """
    kernel = golden.pmem("a_empty_crcoff")
    with open(shm / "ours", "wb") as f:
        f.truncate(512 * MIB)
    Pair(shm / "ours", golden.backing("a_empty_crcoff")).open().close()
    different = {}
    with open(kernel, "rb") as a, open(shm / "ours", "rb") as b:
        for at in range(0, 512 * MIB, 64 * 1024):
            left, right = a.read(64 * 1024), b.read(64 * 1024)
            if left != right:
                different.update({at + n: (left[n:n + 8].hex(), right[n:n + 8].hex())
                                  for n in range(0, len(left), 8) if left[n:n + 8] != right[n:n + 8]})
    assert any(off < PAGE for off in different), "no identity block was written"
    outside = {off: both for off, both in different.items()
               if off >= PAGE and not CACHE_INFO <= off < CACHE_INFO + 24}
    assert not outside, f"offset: (kernel's, ours) {dict(list(outside.items())[:20])}"
    check_first_cache_info(shm / "ours", kernel)


def check_first_cache_info(ours, kernel):
    """Slot 1 as the kernel's; slot 0 empty as the kernel's, or the same again with the next seq."""
    formatted = peek(ours, CACHE_INFO + PAGE, 24)
    assert formatted == peek(kernel, CACHE_INFO + PAGE, 24) and formatted[4] == 1
    attached = peek(ours, CACHE_INFO, 24)
    assert attached in (bytes(24), sealed(formatted[:4] + b"\x02" + formatted[5:]))


def test_format_over_old_content_is_the_kernels(golden, cache_file):
    """The same over the segments of an earlier life: everything that the format defines."""
    kernel = golden.pmem("a_empty_crcoff")
    Pair(cache_file, golden.backing("a_empty_crcoff")).open().close()
    check_first_cache_info(cache_file, kernel)
    places = [(4096, 24), (CACHE_CTRL, 64)]
    for segment in range(31):
        at = SEGMENTS_AT + segment * SEGMENT
        # segment_info, generations, and the data area's first header, which must not be a valid kset
        places += [(at, 16), (at + 4096, 16), (at + 8192, 32), (at + 12 * 1024, 24)]
    for off, length in places:
        assert peek(cache_file, off, length) == peek(kernel, off, length), f"at {off}"


def test_attach_writes_cache_info_to_the_other_slot(golden, shm, disk):
    pair = golden.copy("b_mixed_crcoff", shm, disk)
    before = [peek(pair.cache_path, CACHE_INFO + slot * PAGE, 24) for slot in (0, 1)]
    rest = peek(pair.cache_path, CACHE_INFO + 2 * PAGE, SEGMENTS_AT - CACHE_INFO - 2 * PAGE)
    pair.open().close()
    after = [peek(pair.cache_path, CACHE_INFO + slot * PAGE, 24) for slot in (0, 1)]
    changed = [slot for slot in (0, 1) if before[slot] != after[slot]]
    assert len(changed) == 1
    new, other = after[changed[0]], after[1 - changed[0]]
    assert (new[4] - other[4]) % 256 == 1, "seq is the other's + 1"
    assert new[5:] == other[5:]
    assert peek(pair.cache_path, CACHE_INFO + 2 * PAGE, len(rest)) == rest


# ---- Damaged images ----

@pytest.mark.parametrize("case", golden_damaged(attach="refuse"))
def test_damaged_image_is_refused_and_left_alone(golden, case):
    with golden.untouched_damaged(case) as pair:
        for force in (0, 1):  # not even by force
            with pytest.raises(PcacheError) as refused:
                pair.open(force=force).close()
            assert refused.value.code == errno.EUCLEAN, case["why"]
            assert str(pair.cache_path) in refused.value.text and "\n" not in refused.value.text


@pytest.mark.parametrize("case", golden_damaged(attach="ok"))
def test_damaged_image_is_attached(golden, shm, disk, case):
    pair = golden.copy_damaged(case, shm, disk)
    expect = case["expect"]
    for _attach in range(2):
        with pair.open() as cache:
            if "logical_sha256" in expect:
                assert sha256(read_all(cache)) == expect["logical_sha256"], case["why"]
            else:
                check_eio_range(cache, golden.entry(case["base"]), *expect["eio_range"])


def test_clamped_gc_percent_is_said(golden, shm, disk):
    pair = golden.copy_damaged(golden_case("cache-info-gc-percent-127"), shm, disk)
    with pair.open() as cache:
        assert any("gc_percent" in line for line in cache.warnings)
        assert cache.info.gc_percent == 90


def read_error(cache, off, length):
    request = Request(READ, off, length=length)
    if not cache.queue.submit(request):
        cache.queue.reap()
    return -request.result, request.data


def check_eio_range(cache, image, off, length):
    """Every sector of the range fails, none outside does; a read that touches it fails as a whole."""
    for at in range(0, image["logical_bytes"], MIB):
        if at + MIB <= off or at >= off + length:
            assert read_error(cache, at, MIB)[0] == 0
    first, last = off // MIB * MIB, (off + length + MIB - 1) // MIB * MIB
    for at in range(first, last, SECTOR):
        error, _data = read_error(cache, at, SECTOR)
        want = errno.EIO if off <= at < off + length else 0
        assert error == want, f"at {at}, {at - off} into the range"
    for at, size in ((off - SECTOR, 2 * SECTOR), (off + length - SECTOR, 2 * SECTOR), (first, last - first),
                     (off - PAGE, length + 2 * PAGE)):
        assert read_error(cache, at, size)[0] == errno.EIO
    for at, size in ((off - PAGE, PAGE), (off + length, PAGE)):
        assert read_error(cache, at, size)[0] == 0
    assert cache.status["events"]["bad_dirty_reads"] >= length // SECTOR


def test_content_outside_the_eio_range_is_right(golden, shm, disk):
    """Written over, the range is whole again; with the undamaged bytes, so is all of the device."""
    case = golden_case("data-flip-dirty-crc-on")
    off, length = case["expect"]["eio_range"]
    (shm / "good").mkdir()
    (disk / "good").mkdir()
    with golden.copy(case["base"], shm / "good", disk / "good").open() as cache:
        good = cache.read(off, length)
    pair = golden.copy_damaged(case, shm, disk)
    with pair.open() as cache:
        cache.write(off, good[:SECTOR])  # a cut extent can still be verified, and still fails
        assert read_error(cache, off, SECTOR)[0] == 0
        assert read_error(cache, off + SECTOR, SECTOR)[0] == errno.EIO
        cache.write(off, good)
        assert sha256(read_all(cache)) == golden.entry(case["base"])["logical_sha256_kernel"]
