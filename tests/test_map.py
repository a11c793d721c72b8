# SPDX-License-Identifier: GPL-2.0-or-later
"""What a range is made of: pcache_map(), and NBD's extents by nbdinfo and nbdcopy."""

import json
import os

import pytest

from measure.libpcache import DISCARD, MIB, WRITE_ZEROES, Cache
from support import PAGE, SECTOR, make_backing
from test_nbdkit import good, served, tool

SIZE = 16 * MIB


def sparse(path, *data):
    with open(path, "wb") as f:
        f.truncate(SIZE)
        for off, content in data:
            f.seek(off)
            f.write(content)
    return path


def test_each_kind(cache_file, disk):
    backing = sparse(disk / "backing", (MIB, b"b" * MIB))
    with Cache(cache_file, backing) as cache:
        if cache.map(0, SIZE) == [(0, SIZE, "")]:
            pytest.skip("the file system cannot tell holes")
        assert cache.map(0, SIZE) == [(0, MIB, "zh"), (MIB, MIB, ""), (2 * MIB, 14 * MIB, "zh")]
        cache.read(MIB, PAGE)
        cache.write(MIB + PAGE, b"w" * PAGE)
        cache.write(5 * MIB + SECTOR, b"w" * SECTOR)
        cache.zero(6 * MIB, 5 * MIB, op=DISCARD)
        cache.zero(SIZE - PAGE, PAGE, op=WRITE_ZEROES)
        assert cache.map(0, SIZE) == [
            (0, MIB, "zh"), (MIB, PAGE, "c"), (MIB + PAGE, PAGE, "cd"), (MIB + 2 * PAGE, MIB - 2 * PAGE, ""),
            (2 * MIB, 3 * MIB + SECTOR, "zh"), (5 * MIB + SECTOR, SECTOR, "cd"),
            (5 * MIB + 2 * SECTOR, MIB - 2 * SECTOR, "zh"), (6 * MIB, 5 * MIB, "cdz"),
            (11 * MIB, 5 * MIB - PAGE, "zh"), (SIZE - PAGE, PAGE, "cdz")]
        assert cache.map(6 * MIB + SECTOR, SECTOR) == [(6 * MIB + SECTOR, SECTOR, "cdz")]
        assert cache.map(0, SIZE, count=2) == [(0, MIB, "zh"), (MIB, PAGE, "c")]
        cache.drain()
        assert cache.map(6 * MIB, 5 * MIB) == [(6 * MIB, 5 * MIB, "zh")], "the device has them, and the index has not"


def test_a_file_that_was_cut_has_no_hole_there(cache_file, disk):
    """A read of it fails: a copy must not take it for zeros."""
    backing = sparse(disk / "backing")
    with Cache(cache_file, backing) as cache:
        if cache.map(0, SIZE) != [(0, SIZE, "zh")]:
            pytest.skip("the file system cannot tell holes")
        os.truncate(backing, 8 * MIB)
        assert cache.map(0, SIZE) == [(0, 8 * MIB, "zh"), (8 * MIB, 8 * MIB, "")]
        with pytest.raises(OSError, match="Input/output"):
            cache.read(12 * MIB, PAGE)
        os.truncate(backing, SIZE)


@pytest.mark.parametrize("off,length,count,text", [
    (0, 0, 1, "Invalid"), (0, SECTOR, 0, "Invalid"), (SIZE, SECTOR, 1, "No such device"),
    (0, SIZE + 1, 1, "No such device"), (2 ** 64 - SECTOR, 2 * SECTOR, 1, "No such device")])
def test_wrong_ranges(cache_file, disk, off, length, count, text):
    with Cache(cache_file, make_backing(disk / "backing", SIZE)) as cache:
        with pytest.raises(OSError, match=text):
            cache.map(off, length, count)


def test_by_nbd(pair, tmp_path):
    sparse(pair.backing_path, (0, b"b" * PAGE), (9 * MIB, b"c" * MIB))
    with served(pair, tmp_path) as (uri, _):
        extents = json.loads(good(tool("nbdinfo", "libnbd-bin"), "--map", "--json", uri))
        assert sum(extent["length"] for extent in extents) == SIZE
        if len(extents) == 1:
            pytest.skip("the file system cannot tell holes")
        assert [(e["offset"], e["type"]) for e in extents] == [(0, 0), (PAGE, 3), (9 * MIB, 0), (10 * MIB, 3)]
        good(tool("qemu-io", "qemu-utils"), "-f", "raw", "-c", "write -z -u 9M 64k", "-c", "write -P 7 4M 4k", uri)
        extents = json.loads(good("nbdinfo", "--map", "--json", uri))
        assert [(e["offset"], e["type"]) for e in extents] == [
            (0, 0), (PAGE, 3), (4 * MIB, 0), (4 * MIB + PAGE, 3), (9 * MIB, 2), (9 * MIB + (64 << 10), 0),
            (10 * MIB, 3)]
        good(tool("nbdcopy", "libnbd-bin"), uri, tmp_path / "copy")
    want = bytearray(pair.backing_path.read_bytes())
    want[9 * MIB:9 * MIB + (64 << 10)] = bytes(64 << 10)
    want[4 * MIB:4 * MIB + PAGE] = b"\x07" * PAGE
    assert (tmp_path / "copy").read_bytes() == want
