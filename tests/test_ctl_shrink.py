# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl resize to less: only what is free goes, the file gives its space back, and a crash leaves a cache."""

import hashlib
import os
import random
import subprocess

import pytest

from ctl import Ctl
from measure.libpcache import FUA, MIB
from support import (CACHE_BYTES, CACHE_INFO, PAGE, SEGMENT, SEGMENTS_AT, SUPERBLOCK, file_state, patch,
                     peek, read_all, stamp, wait_until)
from test_ctl_check import raise_generation

LARGE = 640 * MIB  # 39 segments
NEVER = 3_600_000


def segments(pair):
    return Ctl().json("status", pair.cache_path)["segments"]["total"]


def refused(pair, *args):
    before = file_state(pair.cache_path)
    line = Ctl().refused("resize", pair.cache_path, *args)
    assert file_state(pair.cache_path) == before, "something was changed"
    return line


@pytest.fixture
def large(pair):
    """39 segments, of which the first few hold dirty data."""
    with pair.open() as cache:
        cache.write(0, stamp(0, PAGE, 1))
    Ctl().run("resize", pair.cache_path, "--size", LARGE)
    with pair.open(writeback_interval_ms=NEVER) as cache:
        cache.write(0, stamp(0, 8 * MIB, 1), flags=FUA)
    yield pair
    pair.close_all()


def still_there(pair):
    assert Ctl().json("check", pair.cache_path, "--backing", pair.backing_path)["findings"] == []
    with pair.open(writeback_interval_ms=NEVER) as cache:
        assert cache.read(0, 8 * MIB) == stamp(0, 8 * MIB, 1)
        assert cache.info.segments == segments_of(pair)


def segments_of(pair):
    return int.from_bytes(peek(pair.cache_path, SUPERBLOCK + 16, 4), "little")


def test_what_is_free_goes_and_all_that_is_dirty_stays(large):
    said = Ctl().run("resize", large.cache_path, "--size", "550M").stdout
    assert "34 segments" in said and "was 39" in said
    st = large.cache_path.stat()
    assert st.st_size == 550 * MIB and st.st_blocks * 512 <= 550 * MIB
    still_there(large)
    assert Ctl().json("resize", large.cache_path, "--size", "512M") == {"segments": 31, "before": 34}
    assert large.cache_path.stat().st_size == CACHE_BYTES
    still_there(large)
    with large.open() as cache:  # all 31 are of use
        for n in range(60):
            cache.write(n % 15 * MIB, stamp(n % 15 * MIB, MIB, n))
        cache.drain()
    assert peek(large.backing_path, 14 * MIB, MIB) == stamp(14 * MIB, MIB, 59)
    before = file_state(large.cache_path)
    assert "already" in Ctl().run("resize", large.cache_path, "--size", "512M").stdout
    assert file_state(large.cache_path) == before


def fill(pair):
    """Data in a segment that would go; there is no reclaim before."""
    with pair.open(writeback_interval_ms=NEVER, gc_percent=90) as cache:
        for n in range(32 * 16):
            cache.write(n % 15 * MIB, stamp(n % 15 * MIB, MIB, n), flags=FUA)


def test_what_is_in_use_is_refused_with_the_least_size(large):
    fill(large)
    line = refused(large, "--size", "512M")
    assert "31 segments" in line and "in use" in line and "by keys" in line and "drain" in line
    least = int(line.split("--size ")[2].split()[0])
    used = [one["physical"] for one in Ctl().jsons("dump", large.cache_path, "--what", "segments")
            if one["use"] != "free"]
    assert least == SEGMENTS_AT + (max(used) + 1) * SEGMENT
    assert "1 are in use" in refused(large, "--size", least - 1)
    with large.open(writeback_interval_ms=NEVER) as cache:
        content = read_all(cache)
    Ctl().run("resize", large.cache_path, "--size", least)
    assert large.cache_path.stat().st_size == least
    with large.open() as cache:
        assert cache.info.segments == max(used) + 1 and read_all(cache) == content


def test_what_dead_keys_name_stays(large):
    """They hold nothing; and an attach refuses a key that names no segment."""
    fill(large)
    with large.open(gc_percent=90) as cache:
        cache.drain()
    used = [one for one in Ctl().jsons("dump", large.cache_path, "--what", "segments") if one["use"] == "data"]
    last = max(one["physical"] for one in used)
    assert last >= 31
    raise_generation(large.cache_path, last)
    one = [one for one in Ctl().jsons("dump", large.cache_path, "--what", "segments") if one["physical"] == last]
    assert one[0]["use"] == "free"
    assert "1 are in use" in refused(large, "--size", SEGMENTS_AT + last * SEGMENT)


def test_a_cache_that_is_emptied_first(large):
    """The way that the manual page names: reclaim of all that is clean, then the log alone is left."""
    fill(large)
    with large.open() as cache:
        cache.drain()
        cache.set("gc_percent", "0")
        wait_until(lambda: cache.status["segments"]["data"] == 0)
    with large.open(writeback_interval_ms=NEVER) as cache:
        content = read_all(cache)
    assert Ctl().json("resize", large.cache_path, "--size", "512M")["segments"] == 31
    with large.open() as cache:
        assert read_all(cache) == content


@pytest.mark.parametrize("name", ["a_empty_crcoff", "c_mixed_crcon", "d_crash_crcoff"])
def test_an_image_of_the_kernels_larger_and_smaller_again(golden, shm, disk, name):
    """Every byte of what the kernel target reads is as it was, but for the place of the newest records."""
    pair = golden.copy(name, shm, disk)
    size, was = pair.cache_path.stat().st_size, peek(pair.cache_path, 0, SEGMENTS_AT)
    before = Ctl().json("status", pair.cache_path)["segments"]["total"]
    last = SEGMENTS_AT + (before - 1) * SEGMENT
    digest = content_digest(pair.cache_path, SEGMENTS_AT, last)
    grown = Ctl().json("resize", pair.cache_path, "--size", size + 3 * SEGMENT)
    assert grown == {"segments": before + 3, "before": before}
    assert Ctl().call("check", pair.cache_path).returncode == 0
    assert Ctl().json("resize", pair.cache_path, "--size", size) == {"segments": before, "before": before + 3}
    now = peek(pair.cache_path, 0, SEGMENTS_AT)
    assert now[:CACHE_INFO] == was[:CACHE_INFO], "superblock"
    assert content_digest(pair.cache_path, SEGMENTS_AT, last) == digest
    assert Ctl().call("check", pair.cache_path).returncode == 0
    with pair.open() as cache:
        assert hashlib.sha256(read_all(cache)).hexdigest() == golden.entry(name)["logical_sha256_kernel"]


def content_digest(path, begin, end):
    sha = hashlib.sha256()
    with open(path, "rb") as f:
        f.seek(begin)
        while begin < end:
            begin += len(chunk := f.read(min(MIB, end - begin)))
            sha.update(chunk)
    return sha.hexdigest()


def test_what_is_refused(large):
    for size in ("0", "536870911"):
        assert "512 MiB or more" in refused(large, "--size", size)
    for size in ("-1",):
        assert "a size in bytes" in refused(large, "--size=" + size)
    with large.open(writeback_interval_ms=NEVER):
        assert "an attached cache is not made smaller" in Ctl().refused("resize", large.cache_path, "--size", "512M")
    still_there(large)


def interrupted(pair):
    """A crash between cache_info and the superblock of a shrink from 39 to 31: the superblock is put back."""
    old = peek(pair.cache_path, SUPERBLOCK, 24)
    Ctl().run("resize", pair.cache_path, "--size", CACHE_BYTES)
    os.truncate(pair.cache_path, LARGE)
    patch(pair.cache_path, SUPERBLOCK, old)
    assert segments(pair) == 31 and segments_of(pair) == 39
    still_there_but_for_size(pair)


def still_there_but_for_size(pair):
    with pair.open(writeback_interval_ms=NEVER) as cache:
        assert cache.read(0, 8 * MIB) == stamp(0, 8 * MIB, 1)


@pytest.mark.parametrize("size, count", [("512M", 31), ("600M", 37), ("700M", 43), (None, 39)])
def test_any_size_ends_an_interrupted_one(large, size, count):
    interrupted(large)
    said = Ctl().run("resize", large.cache_path, *(["--size", size] if size else [])).stdout
    assert ("interrupted" if count == 31 else f"{count} segments") in said
    assert segments(large) == segments_of(large) == count
    still_there(large)


def test_a_file_that_was_not_cut_any_more_is(large):
    Ctl().run("resize", large.cache_path, "--size", "512M")
    os.truncate(large.cache_path, LARGE)
    assert "the file was cut" in Ctl().run("resize", large.cache_path, "--size", "512M").stdout
    assert large.cache_path.stat().st_size == CACHE_BYTES
    still_there(large)


def test_killed_at_any_moment_it_is_as_before_or_resized(large):
    rng = random.Random(7)
    seen = set()
    for round_ in range(24):
        size = LARGE if round_ % 2 else CACHE_BYTES
        process = Ctl().start("resize", large.cache_path, "--size", size)
        try:
            process.wait(rng.uniform(0.001, 0.05))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        seen.add(segments(large))
        assert segments(large) in (31, 39)
        with large.open(writeback_interval_ms=NEVER) as cache:
            assert cache.read(0, 8 * MIB) == stamp(0, 8 * MIB, 1)
    assert Ctl().json("resize", large.cache_path, "--size", CACHE_BYTES)["segments"] == 31
    still_there(large)
    assert seen <= {31, 39}


def test_a_full_file_system(small_shm, pair):
    """To grow is refused and the file is as it was; to shrink needs no space."""
    folder = small_shm(600)
    pair.cache_path = folder / "cache"
    with pair.open(cache_size=560 * MIB, writeback_interval_ms=NEVER) as cache:
        cache.write(0, stamp(0, 8 * MIB, 1), flags=FUA)
    line = refused(pair, "--size", LARGE)
    assert "cannot allocate" in line and "are free" in line
    (folder / "rest").write_bytes(bytes(os.statvfs(folder).f_bavail * PAGE))
    Ctl().run("resize", pair.cache_path, "--size", "512M")
    still_there(pair)
    assert os.statvfs(folder).f_bavail * PAGE >= 40 * MIB
