# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl set and identity: the two things of an image that a user chooses."""

import errno
import re
import shutil
import struct
import subprocess
import time

import pytest

from ctl import UNTRUSTED
from measure.libpcache import MIB, PcacheError
from support import PAGE, Pair, golden_damaged, make_backing, patch, peek, read_all, stamp, system_tool


@pytest.mark.parametrize("percent", [0, 1, 50, 89, 90])
def test_gc_percent_is_what_attach_sees(ctl, pair, percent):
    with pair.open(gc_percent=70) as cache:
        cache.write(0, stamp(0, MIB, 1))
        content = read_all(cache)
    told = ctl.json("set", pair.cache_path, "gc_percent", percent)
    assert told == {"gc_percent": percent, "before": 70}
    assert ctl.run("status", "--line", pair.cache_path).stdout.split()[7] == str(percent)
    ctl.run("check", pair.cache_path, "--backing", pair.backing_path)
    with pair.open() as cache:
        assert cache.info.gc_percent == percent and read_all(cache) == content


def test_the_other_replica_is_written(ctl, golden, shm, disk):
    """Of a kernel image too; nothing else changes, data_crc and mode stay."""
    pair = golden.copy("c_mixed_crcon", shm, disk)
    before = [peek(pair.cache_path, at, 24) for at in (8192, 12288)]
    rest = peek(pair.cache_path, 0, 8192), peek(pair.cache_path, 16384, 4 * MIB)
    assert ctl.run("set", pair.cache_path, "gc_percent", 3).stdout == "gc_percent: 3 (was 70)\n"
    after = [peek(pair.cache_path, at, 24) for at in (8192, 12288)]
    assert sum(a != b for a, b in zip(before, after)) == 1
    assert (peek(pair.cache_path, 0, 8192), peek(pair.cache_path, 16384, 4 * MIB)) == rest
    ctl.run("check", pair.cache_path, "--backing", pair.backing_path)
    with pair.open() as cache:
        assert cache.info.gc_percent == 3 and cache.info.data_crc == 1


@pytest.mark.parametrize("arguments", [
    ["gc_percent", "91"], ["gc_percent", "-1"], ["gc_percent", "256"], ["gc_percent", "x"], ["gc_percent", "5x"],
    ["gc_percent", "1.5"], ["gc_percent", ""], ["gc_percent", "99999999999999999999"], ["gc_percent"], [],
    ["gc_percent", "50", "60"], ["data_crc", "1"], ["GC_PERCENT", "50"], ["", "50"]])
def test_wrong_settings(ctl, pair, arguments):
    pair.open().close()
    before = pair.digests()
    ctl.refused("set", pair.cache_path, *arguments)
    assert pair.digests() == before


@pytest.mark.parametrize("case", golden_damaged(attach="refuse"))
def test_damaged_image_is_left_alone(ctl, golden, case):
    with golden.untouched_damaged(case) as pair:
        if case["name"] != "key-beyond-device":  # which nobody can tell without the backing device
            ctl.refused("set", pair.cache_path, "gc_percent", 50, code=UNTRUSTED)
        ctl.refused("identity", "set", pair.cache_path, "--backing", pair.backing_path, code=UNTRUSTED)


def test_kernel_image_has_no_identity(ctl, golden):
    with golden.untouched("d_crash_crcoff") as pair:
        assert "no identity block" in ctl.run("identity", "show", pair.cache_path).stdout
        assert ctl.json("identity", "show", pair.cache_path) == {"identity": None}


def test_identity_is_shown(ctl, pair):
    began = int(time.time())
    pair.open().close()
    shown = ctl.json("identity", "show", pair.cache_path)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", shown["uuid"])
    assert shown["backing_bytes"] == 16 * MIB and shown["backing"]
    assert began <= shown["created_unix_s"] <= time.time()
    text = ctl.run("identity", "show", pair.cache_path).stdout
    assert shown["uuid"] in text and shown["backing"] in text and str(16 * MIB) in text


def test_identity_is_set_for_a_copy(ctl, pair, disk):
    """Attach then takes the copy and refuses the original; the content stays."""
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(0, stamp(0, MIB, 1))
        content = read_all(cache)
    original = pair.backing_path
    pair.backing_path = disk / "copy"
    shutil.copy(original, pair.backing_path)
    before = ctl.json("identity", "show", pair.cache_path)
    line = ["identity", "set", pair.cache_path, "--backing", pair.backing_path]
    told = ctl.refused(*line)
    assert "dirty data" in told and told.count(f"of {16 * MIB} bytes") == 2, "which would go to another device"
    after = ctl.json(*line, "--force")
    assert after == ctl.json("identity", "show", pair.cache_path) and after["backing"] != before["backing"]
    assert peek(pair.backing_path, 0, MIB) == peek(original, 0, MIB), "the backing device is only read"
    with pair.open() as cache:
        assert read_all(cache) == content
    pair.backing_path = original
    with pytest.raises(PcacheError) as refused:
        pair.open()
    assert refused.value.code == errno.EXDEV
    pair.backing_path = disk / "copy"


def test_identity_of_a_kernel_image(ctl, golden, shm, disk):
    pair = golden.copy("d_crash_crcoff", shm, disk)
    ctl.run("identity", "set", pair.cache_path, "--backing", pair.backing_path)
    assert ctl.json("check", pair.cache_path, "--backing", pair.backing_path)["findings"] == []
    with pair.open() as cache:
        assert not [line for _level, line in cache.log if "identity" in line]


def test_identity_for_a_smaller_device(ctl, pair, disk):
    """Refused: keys would name ranges that are not there."""
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(15 * MIB, stamp(15 * MIB, PAGE, 1))
    before = pair.digests()
    ctl.refused("identity", "set", pair.cache_path, "--backing", make_backing(disk / "small", 8 * MIB),
                code=UNTRUSTED)
    assert pair.digests() == before


def test_damaged_identity_block(ctl, pair):
    """Shown as damage, and put right by identity set."""
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(0, stamp(0, MIB, 1))
        content = read_all(cache)
    patch(pair.cache_path, 40, bytes(byte ^ 0xFF for byte in peek(pair.cache_path, 40, 4)))
    ctl.refused("identity", "show", pair.cache_path, code=UNTRUSTED)
    ctl.run("check", pair.cache_path, "--backing", pair.backing_path, code=UNTRUSTED)
    ctl.run("identity", "set", pair.cache_path, "--backing", pair.backing_path)
    with pair.open() as cache:
        assert read_all(cache) == content


@pytest.mark.parametrize("arguments", [["identity"], ["identity", "frob"], ["identity", "show"], ["identity", "set"],
                                       ["identity", "set", "CACHE"], ["identity", "set", "--backing", "BACKING"]])
def test_wrong_identity_commands(ctl, pair, arguments):
    places = {"CACHE": pair.cache_path, "BACKING": pair.backing_path}
    ctl.refused(*[places.get(argument, argument) for argument in arguments])


def partition_table(_disk):
    entry = struct.pack("<4B4BII", 0x80, 0x20, 0x21, 0, 0x83, 0xFE, 0xFF, 0xFF, 2048, 1 << 19)
    return (b"\xfa\xb8\x00\x10".ljust(446, b"\x90") + entry).ljust(510, b"\0") + b"\x55\xaa" + bytes(PAGE - 512)


def file_system(disk):
    with open(disk / "ext4", "wb") as f:
        f.truncate(64 * MIB)
    subprocess.run([system_tool("mkfs.ext4", "e2fsprogs"), "-q", disk / "ext4"], check=True)
    return peek(disk / "ext4", 0, PAGE)


def nothing_known(_disk):
    return bytes(range(1, 251)) + bytes(PAGE - 250)


@pytest.mark.parametrize("foreign, name", [
    (partition_table, "a partition table of type dos"), (file_system, "content of type ext4"),
    (nothing_known, "something unknown")])
def test_foreign_first_page(ctl, fresh_cache_file, backing, disk, foreign, name):
    """As on an image of the kernel target's. Whatever is done, it stays, byte for byte, until identity set overwrites
    it: that says so, and what it was."""
    cache, pair = fresh_cache_file, Pair(fresh_cache_file, backing)
    with pair.open(writeback_interval_ms=3_600_000) as attached:
        attached.write(0, stamp(0, MIB, 1))
        content = read_all(attached)
    page = foreign(disk)
    patch(cache, 0, page)
    with pair.open(writeback_interval_ms=3_600_000, persist="auto") as attached:
        assert any("not ours" in line for _level, line in attached.log)
        attached.write(MIB, stamp(MIB, MIB, 2))
        content = content[:MIB] + stamp(MIB, MIB, 2) + content[2 * MIB:]
    assert peek(cache, 0, PAGE) == page, "attach"
    for line in (["check", cache, "--backing", backing], ["status", cache], ["dump", cache],
                 ["identity", "show", cache], ["export", cache, "--backing", backing, "--to", disk / "whole"],
                 ["set", cache, "gc_percent", "33"], ["repair", cache, "--yes"], ["calibrate", cache],
                 ["format", disk / "other", "--size", "512M"], ["writeback", cache, "--to", backing],
                 ["resize", cache, "--size", "544M"]):
        ctl.run(*line)
        assert peek(cache, 0, PAGE) == page, line
    assert ctl.json("identity", "show", cache) == {"identity": None}
    assert "--force" in ctl.refused("format", cache) and peek(cache, 0, PAGE) == page
    assert (disk / "whole").read_bytes() == content == backing.read_bytes()

    said = ctl.run("identity", "set", cache, "--backing", backing).stdout.splitlines()
    assert [line for line in said if "overwrote" in line] == [
        f"overwrote the first 512 bytes of what was not ours: {name}"]
    shown = ctl.json("identity", "show", cache)
    assert shown["backing_bytes"] == 16 * MIB and shown["uuid"] in "".join(said)
    assert peek(cache, 512, PAGE - 512) == page[512:], "an identity block has 512 bytes"
    assert "overwrote" not in ctl.run("identity", "set", cache, "--backing", backing).stdout, "its own is not foreign"
    with pair.open() as attached:
        assert read_all(attached) == content
    patch(cache, 0, page)
    assert ctl.json("identity", "set", cache, "--backing", backing)["overwrote"] == name
