# SPDX-License-Identifier: GPL-2.0-or-later
"""A backing device that has grown: what is attached goes on with what it has, the next attach uses all of it. A file
must be named again first, since another one may have got its inode's number. Few disks need not: DiskIdentityTest."""

import errno
import os

import pytest

from ctl import FAILED, UNTRUSTED, Ctl
from measure.libpcache import FUA, MIB, PcacheError
from support import PAGE, SECTOR, peek, read_all, stamp

NEVER = 3_600_000
OLD = 16 * MIB


@pytest.fixture
def dirty(pair):
    with pair.open(writeback_interval_ms=NEVER) as cache:
        cache.write(0, stamp(0, MIB, 1), flags=FUA)
        cache.write(OLD - PAGE, stamp(OLD - PAGE, PAGE, 1), flags=FUA)
    return pair


def identity(pair):
    return Ctl().json("identity", "show", pair.cache_path)


def name_again(pair):
    """It is the same one, though the cache holds dirty data for it."""
    Ctl().run("identity", "set", pair.cache_path, "--backing", pair.backing_path)


@pytest.mark.parametrize("size", [OLD + SECTOR, 40 * MIB])
def test_all_of_it_is_used_from_the_next_attach_on(dirty, size):
    before = peek(dirty.cache_path, 0, PAGE)
    os.truncate(dirty.backing_path, size)
    with pytest.raises(PcacheError) as refused:
        dirty.open()
    assert refused.value.code == errno.EXDEV
    assert str(OLD) in refused.value.text and str(size) in refused.value.text
    assert "if it is the same one, and has grown: pcachectl identity set" in refused.value.text
    assert peek(dirty.cache_path, 0, PAGE) == before
    name_again(dirty)
    last = size - SECTOR
    with dirty.open(writeback_interval_ms=NEVER) as cache:
        assert cache.info.logical_bytes == size
        assert cache.read(0, MIB) == stamp(0, MIB, 1) and cache.read(last, SECTOR) == bytes(SECTOR)
        cache.write(last, stamp(last, SECTOR, 2), flags=FUA)
    assert identity(dirty)["backing_bytes"] == size
    assert Ctl().json("check", dirty.cache_path, "--backing", dirty.backing_path)["findings"] == []
    with dirty.open() as cache:
        content = read_all(cache)
        cache.drain()
    assert content[last:] == stamp(last, SECTOR, 2) and dirty.backing_path.read_bytes() == content


def test_tools_take_all_of_it(dirty, disk):
    os.truncate(dirty.backing_path, 40 * MIB)
    name_again(dirty)
    before = peek(dirty.cache_path, 0, PAGE)
    Ctl().run("export", dirty.cache_path, "--backing", dirty.backing_path, "--to", disk / "whole")
    whole = (disk / "whole").read_bytes()
    assert len(whole) == 40 * MIB and whole[OLD - PAGE:OLD] == stamp(OLD - PAGE, PAGE, 1)
    with dirty.open(readonly=1) as cache:
        assert read_all(cache) == whole
    assert peek(dirty.cache_path, 0, PAGE) == before
    assert Ctl().json("writeback", dirty.cache_path, "--to", dirty.backing_path)["done"]
    assert dirty.backing_path.read_bytes() == whole


def test_while_attached_requests_past_the_old_end_are_refused(dirty):
    with dirty.open(writeback_interval_ms=NEVER) as cache:
        os.truncate(dirty.backing_path, 40 * MIB)
        for call in (lambda: cache.read(OLD, PAGE), lambda: cache.write(OLD - SECTOR, bytes(PAGE))):
            with pytest.raises(OSError) as refused:
                call()
            assert refused.value.errno == errno.ENXIO
        cache.write(MIB, stamp(MIB, MIB, 3))
        cache.drain()
    assert peek(dirty.backing_path, MIB, MIB) == stamp(MIB, MIB, 3)
    assert peek(dirty.backing_path, OLD, 24 * MIB) == bytes(24 * MIB)
    told = Ctl().run("check", dirty.cache_path, "--backing", dirty.backing_path, code=UNTRUSTED).stdout
    assert "if it is the same one, and has grown: pcachectl identity set" in told
    name_again(dirty)


def test_another_file_that_is_larger_is_still_another(dirty, disk):
    other = disk / "other"
    other.write_bytes(bytes(40 * MIB))
    right, dirty.backing_path = dirty.backing_path, other
    with pytest.raises(PcacheError) as refused:
        dirty.open()
    assert refused.value.code == errno.EXDEV
    line = Ctl().refused("identity", "set", dirty.cache_path, "--backing", other, code=FAILED)
    assert "--force" in line
    dirty.backing_path = right
