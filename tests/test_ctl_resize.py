# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl resize: a cache made larger with all that it holds; what is refused has changed nothing.

To less: test_ctl_shrink.py.
"""

import os

import pytest

from ctl import Ctl, UNTRUSTED
from measure.libpcache import FUA, MIB
from support import (CACHE_BYTES, CACHE_CTRL, PAGE, SEGMENT, SEGMENTS_AT, SUPERBLOCK, crc32c, file_state, patch, peek,
                     stamp)

GIB = 1 << 30
CACHE_INFO = 8192


@pytest.fixture
def dirty(pair):
    """With dirty data in its log; as long as the fixture made it afterwards, for the next test."""
    with pair.open(writeback_interval_ms=3600000) as cache:
        for n in range(16):
            cache.write(n * MIB, stamp(n * MIB, MIB, 1), flags=FUA)
    yield pair
    pair.close_all()
    os.truncate(pair.cache_path, CACHE_BYTES)


def segments(pair):
    return Ctl().json("status", pair.cache_path)["segments"]["total"]


def still_there(pair, **options):
    with pair.open(**options) as cache:
        for n in range(16):
            assert cache.read(n * MIB, MIB) == stamp(n * MIB, MIB, 1)


def test_a_dirty_cache_becomes_larger(dirty):
    was = peek(dirty.cache_path, 0, CACHE_BYTES)
    said = Ctl().run("resize", dirty.cache_path, "--size", "1G").stdout
    assert "63 segments" in said and "was 31" in said
    st = dirty.cache_path.stat()
    assert st.st_size == GIB and st.st_blocks * 512 >= GIB - CACHE_BYTES
    now = peek(dirty.cache_path, 0, CACHE_BYTES)
    changed = {at for at in range(0, CACHE_BYTES, PAGE) if now[at:at + PAGE] != was[at:at + PAGE]}
    assert changed <= {SUPERBLOCK, 8192, 12288, SEGMENTS_AT + 30 * SEGMENT, SEGMENTS_AT + 30 * SEGMENT + PAGE} | \
        set(range(SEGMENTS_AT + 31 * SEGMENT, CACHE_BYTES, PAGE))
    sb = now[SUPERBLOCK:SUPERBLOCK + 24]
    assert sb[16:20] == (63).to_bytes(4, "little")
    assert sb[:4] == was[SUPERBLOCK:SUPERBLOCK + 4] == crc32c(sb[4:]).to_bytes(4, "little")
    assert Ctl().call("check", dirty.cache_path, "--backing", dirty.backing_path).returncode == 0
    still_there(dirty, cache_size=GIB)
    with dirty.open() as cache:
        assert cache.info.segments == 63
        cache.drain()
    assert peek(dirty.backing_path, 0, 16 * MIB) == stamp(0, 16 * MIB, 1)


def test_again_and_by_what_the_file_has(dirty):
    os.truncate(dirty.cache_path, CACHE_BYTES + 3 * SEGMENT)
    with dirty.open() as cache:
        said, = (line for line in cache.warnings if "34 have room" in line)
    found, = (finding for finding in Ctl().json("check", dirty.cache_path)["findings"] if finding["code"] == "unused")
    assert found["severity"] == "note" and found["text"] in said
    assert f"unused:    {found['text']}\n" in Ctl().run("status", dirty.cache_path).stdout
    assert Ctl().json("status", dirty.cache_path)["unused"] == found["text"]
    assert Ctl().json("resize", dirty.cache_path) == {"segments": 34, "before": 31}
    before = file_state(dirty.cache_path)
    assert "already" in Ctl().run("resize", dirty.cache_path).stdout
    assert file_state(dirty.cache_path) == before
    assert Ctl().json("resize", dirty.cache_path, "--size", "600M") == {"segments": 37, "before": 34}
    still_there(dirty)
    assert "unused" not in Ctl().run("status", dirty.cache_path).stdout + Ctl().run("check", dirty.cache_path).stdout


def refused(pair, *args, code=3):
    before = file_state(pair.cache_path)
    line = Ctl().refused("resize", pair.cache_path, *args, code=code)
    assert file_state(pair.cache_path) == before, "something was changed"
    return line


@pytest.mark.damages_image
def test_what_is_refused(dirty, shm):
    assert "512 MiB or more" in refused(dirty, "--size", "490M")
    old = patch(dirty.cache_path, CACHE_CTRL, bytes(64))
    assert "key_tail" in refused(dirty, "--size", "1G", code=UNTRUSTED)
    patch(dirty.cache_path, CACHE_CTRL, old)
    with dirty.open(control="off"):  # who writes to the file meanwhile, and cannot be asked
        assert "in use" in Ctl().refused("resize", dirty.cache_path, "--size", "1G")
    assert "cannot allocate" in refused(dirty, "--size", "1024P")
    os.truncate(dirty.cache_path, CACHE_BYTES - SEGMENT * 2)
    assert "512 MiB" in refused(dirty, "--size", "1G", code=UNTRUSTED)


@pytest.mark.parametrize("size, count", [("550M", 34), ("600M", 37), ("512M", 31)])
def test_any_size_ends_an_interrupted_resize(dirty, size, count):
    """A crash between the superblock and cache_info: made by taking cache_info back."""
    old = peek(dirty.cache_path, CACHE_INFO, 2 * PAGE)
    Ctl().run("resize", dirty.cache_path, "--size", "600M")
    patch(dirty.cache_path, CACHE_INFO, old)
    assert segments(dirty) == 31
    assert Ctl().json("resize", dirty.cache_path, "--size", size) == {"segments": count, "before": 31}
    assert segments(dirty) == count
    assert peek(dirty.cache_path, SUPERBLOCK + 16, 4) == count.to_bytes(4, "little")
    still_there(dirty)


def test_a_blank_or_missing_file_is_refused(pair, shm):
    assert "blank" in refused(pair, "--size", "1G")
    pair.cache_path = shm / "none"
    assert str(pair.cache_path) in refused(pair, "--size", "1G")
    assert not pair.cache_path.exists()
