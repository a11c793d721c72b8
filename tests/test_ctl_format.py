# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl format: an empty cache as the kernel target makes it, and nothing destroyed unasked."""

import errno
import struct
import subprocess

import pytest

from measure.libpcache import MIB, PcacheError
from support import (CACHE_BYTES, CACHE_CTRL, CACHE_INFO, KSET_MAGIC, PAGE, SEGMENT, SEGMENTS_AT, Pair, digest,
                     make_backing, patch, peek, read_all, stamp, system_tool)


def test_equals_the_kernels(ctl, golden, fresh_cache_file):
    """Byte for byte: superblock, cache_info, tails, segments; no identity block either."""
    kernel = golden.pmem("a_empty_crcoff")
    assert "31 segments" in ctl.run("format", fresh_cache_file).stdout
    with open(kernel, "rb") as a, open(fresh_cache_file, "rb") as b:
        for at in range(0, CACHE_BYTES, MIB):
            left, right = a.read(MIB), b.read(MIB)
            assert left == right, [at + n for n in range(MIB) if left[n] != right[n]][:20]


def test_equals_the_kernels_over_old_content(ctl, golden, cache_file):
    """Everything that the format defines, over the segments of an earlier life."""
    kernel = golden.pmem("a_empty_crcoff")
    ctl.run("format", cache_file, "--force")
    places = [(0, SEGMENTS_AT)]
    for segment in range(31):
        at = SEGMENTS_AT + segment * SEGMENT
        places += [(at, 16), (at + 4096, 16), (at + 8192, 32)]
    for off, length in places:
        assert peek(cache_file, off, length) == peek(kernel, off, length), f"at {off}"
        # the first header of a log must not be a valid kset of the earlier life
    assert struct.unpack("<Q", peek(cache_file, SEGMENTS_AT + 3 * PAGE + 8, 8))[0] != KSET_MAGIC
    ctl.run("check", cache_file)


@pytest.mark.parametrize("data_crc", [False, True])
@pytest.mark.parametrize("percent", [None, 0, 90])
def test_options_are_what_attach_sees(ctl, pair, data_crc, percent):
    options = (["--data-crc"] if data_crc else []) + ([] if percent is None else ["--gc-percent", percent])
    told = ctl.json("format", pair.cache_path, "--force", *options)
    assert told == {"segments": 31, "data_crc": data_crc, "gc_percent": 70 if percent is None else percent,
                    "cache_mode": "writeback"}
    with pair.open() as cache:
        assert cache.info.data_crc == data_crc and cache.info.gc_percent == told["gc_percent"]
        assert read_all(cache) == pair.backing_path.read_bytes()


def test_backing_is_recorded(ctl, pair, disk):
    ctl.run("format", pair.cache_path, "--force", "--backing", pair.backing_path)
    assert ctl.json("identity", "show", pair.cache_path)["backing_bytes"] == 16 * MIB
    assert ctl.json("check", pair.cache_path, "--backing", pair.backing_path)["findings"] == []
    with pytest.raises(PcacheError) as refused:
        Pair(pair.cache_path, make_backing(disk / "other", 16 * MIB)).open()
    assert refused.value.code == errno.EXDEV
    pair.open().close()


@pytest.mark.parametrize("text, size", [("512M", 512 * MIB), ("536870912", 512 * MIB), ("1G", 1024 * MIB),
                                        ("536875008", 512 * MIB + 4096)])
def test_size_makes_the_file(ctl, shm, text, size):
    ctl.run("format", shm / "new", "--size", text)
    assert (shm / "new").stat().st_size == size
    segments = (size - SEGMENTS_AT) // SEGMENT
    assert ctl.run("status", "--line", shm / "new").stdout.split()[4:6] == [str(segments)] * 2


def test_size_extends_the_file(ctl, fresh_cache_file):
    ctl.run("format", fresh_cache_file, "--size", "1G")
    assert fresh_cache_file.stat().st_size == 1024 * MIB
    ctl.run("check", fresh_cache_file)


@pytest.mark.parametrize("options", [
    ["--size", "511M"], ["--size", "0"], ["--size", "x"], ["--size", "-1"], ["--size", ""], ["--size", "512X"],
    ["--size", "99999999999999999999"], ["--size", "512M", "--gc-percent", "91"],
    ["--size", "512M", "--gc-percent", "-1"], ["--size", "512M", "--gc-percent", "x"],
    ["--size", "512M", "--data-crc=maybe"], ["--size", "512M", "--frobnicate"],
    ["--size", "512M", "--backing", "missing"], ["--size", "512M", "more"], []])
def test_wrong_options_make_no_file(ctl, shm, options):
    ctl.refused("format", shm / "new", *options)
    assert list(shm.iterdir()) == []


def refuses_then_forced(ctl, path, *words):
    """Says what is there and changes nothing; --force formats it all the same."""
    before = digest(path)
    told = ctl.refused("format", path)
    assert str(path) in told and "--force" in told
    for word in words:
        assert word in told, told
    assert digest(path) == before
    ctl.run("format", path, "--force")
    ctl.run("check", path)
    assert ctl.json("status", path)["log"]["keys"] == 0


def test_a_cache_is_not_formatted_again(ctl, pair):
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(0, stamp(0, MIB, 1))
    refuses_then_forced(ctl, pair.cache_path, "pcache", "live key", "1 MiB of dirty data")
    with pair.open() as cache:
        assert read_all(cache) == pair.backing_path.read_bytes(), "the old content is back"


def test_force_takes_the_identity_away(ctl, pair, disk):
    """The new cache belongs to whatever it is attached to first."""
    pair.open().close()
    ctl.run("format", pair.cache_path, "--force")
    assert ctl.json("identity", "show", pair.cache_path)["identity"] is None
    pair.backing_path = make_backing(disk / "other", 16 * MIB)
    pair.open().close()


def test_a_kernel_image_is_not_formatted(ctl, golden):
    with golden.untouched("d_crash_crcoff") as pair:
        told = ctl.refused("format", pair.cache_path)
        assert "1518 live keys" in told and "38.7 MiB of dirty data" in told


@pytest.mark.parametrize("at", [CACHE_INFO, 12288, CACHE_CTRL, PAGE])
def test_a_damaged_cache_is_not_formatted(ctl, pair, at):
    """Someone may want to rescue it."""
    with pair.open() as cache:
        cache.write(0, stamp(0, MIB, 1))
    patch(pair.cache_path, at, b"\xff" * 64)
    refuses_then_forced(ctl, pair.cache_path)


def test_a_cache_without_its_superblock_is_not_formatted(ctl, pair):
    """The rest of its frame tells that it is not blank."""
    with pair.open() as cache:
        cache.write(0, stamp(0, MIB, 1))
    patch(pair.cache_path, PAGE, bytes(PAGE))
    refuses_then_forced(ctl, pair.cache_path, "something unknown, from byte")


def test_a_file_system_is_not_formatted(ctl, fresh_cache_file):
    subprocess.run([system_tool("mkfs.ext4", "e2fsprogs"), "-q", "-F", str(fresh_cache_file)], check=True)
    refuses_then_forced(ctl, fresh_cache_file, "ext4")


def test_an_ext_superblock_is_not_formatted(ctl, fresh_cache_file):
    """One written by hand: its magic, revision and block counts are what it is known by."""
    patch(fresh_cache_file, 1024, struct.pack("<II", 128, 512) + bytes(48) + struct.pack("<HHH", 0xEF53, 1, 1))
    refuses_then_forced(ctl, fresh_cache_file, "ext")


def test_a_partition_table_is_not_formatted(ctl, fresh_cache_file):
    entry = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0x83, 0, 3, 0, 2048, 65536)
    patch(fresh_cache_file, 446, entry)
    patch(fresh_cache_file, 510, b"\x55\xaa")
    refuses_then_forced(ctl, fresh_cache_file, "dos")


@pytest.mark.parametrize("at", [0, 512, 5000, 20000])
def test_unknown_content_is_not_formatted(ctl, fresh_cache_file, at):
    patch(fresh_cache_file, at, b"something that somebody wrote")
    refuses_then_forced(ctl, fresh_cache_file)


def test_backing_that_is_missing_leaves_the_cache_alone(ctl, pair, disk):
    before = pair.digests()
    for backing in (disk / "missing", disk, "/dev/null"):
        ctl.refused("format", pair.cache_path, "--backing", backing)
    assert pair.digests() == before


def test_cache_and_backing_device_are_not_one(ctl, fresh_cache_file):
    """It would cache itself."""
    before = digest(fresh_cache_file)
    ctl.refused("format", fresh_cache_file, "--backing", fresh_cache_file)
    assert digest(fresh_cache_file) == before
