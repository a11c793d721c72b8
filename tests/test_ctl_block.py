# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl on a block device: the kernel target's kind of cache device. Here a loop device."""

import contextlib
import os
import pathlib
import resource
import shutil
import stat
import subprocess
import time

import pytest

from ctl import Ctl, UNTRUSTED
from measure.libpcache import MIB
from support import CACHE_BYTES, MOST_BYTES, SEGMENT, SUPERBLOCK, Pair, patch, peek, read_all, stamp


def losetup(*args):
    tool = shutil.which("losetup", path="/usr/sbin:/sbin:/usr/bin")
    if not tool:
        pytest.skip("losetup is missing")
    made = subprocess.run([tool, *(str(arg) for arg in args)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"losetup is not permitted here: {made.stderr.strip()}")
    return made.stdout.strip()


@contextlib.contextmanager
def loop_over(path):
    """A block device; what is written to it is in the file when it is closed."""
    device = losetup("--find", "--show", path)
    try:
        yield device
    finally:
        deadline = time.monotonic() + 60  # udev may have it open for a moment
        while subprocess.run(["losetup", "--detach", device], stderr=subprocess.DEVNULL, check=False).returncode:
            assert time.monotonic() < deadline, f"{device} cannot be detached"
            time.sleep(0.01)


@pytest.fixture
def loop(pair):
    """The pair's cache file as a block device."""
    with open(pair.cache_path, "ab") as f:
        f.truncate(CACHE_BYTES)
    with loop_over(pair.cache_path) as device:
        yield device


@pytest.fixture
def backing_loop(backing):
    """The backing file as a block device."""
    with loop_over(backing) as device:
        yield pathlib.Path(device)


@pytest.fixture
def written(pair):
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        for tag in range(1, 100):
            off = tag * 7919 % 4000 * 4096
            cache.write(off, stamp(off, 4096, tag))
        pair.content = read_all(cache)
    return pair


def test_what_only_reads(ctl, written, loop, disk):
    """All as of the file; no byte changes. (What persist=auto measured is of the file's memory.)"""
    before = written.digests()
    line = ["--backing", written.backing_path]

    def run_on(cache):
        commands = (["check", cache, *line], ["status", cache], ["dump", cache, "--what", "tails,segments,keys"],
                    ["identity", "show", cache], ["dump", cache, "--range", "0+64K"])
        return "".join(ctl.run(*command).stdout for command in commands)

    assert run_on(loop) == run_on(written.cache_path).replace(str(written.cache_path), loop)
    ctl.run("export", loop, *line, "--to", disk / "whole")
    assert (disk / "whole").read_bytes() == written.content
    table = ctl.run("table", loop, *line).stdout.split()
    assert table[3] == loop and table[4] == str(written.backing_path)
    assert written.digests() == before


def test_writeback(ctl, written, loop):
    told = ctl.json("writeback", loop, "--to", written.backing_path)
    assert told["done"] and told["dirty_bytes"] > 0
    assert written.backing_path.read_bytes() == written.content
    assert ctl.json("check", loop, "--backing", written.backing_path)["dirty_bytes"] == 0


def test_writeback_from_a_block_device_to_another(ctl, cache_file, backing, backing_loop):
    with Pair(cache_file, backing_loop).open(writeback_interval_ms=3_600_000) as cache:
        for tag in range(1, 100):
            off = tag * 7919 % 4000 * 4096
            cache.write(off, stamp(off, 4096, tag))
        content = read_all(cache)
    assert backing.read_bytes() != content
    with loop_over(cache_file) as loop:
        told = ctl.json("writeback", loop, "--to", backing_loop)
        assert told["done"] and told["dirty_bytes"] > 0
        checked = ctl.json("check", loop, "--backing", backing_loop)
        assert checked["findings"] == [] and checked["dirty_bytes"] == 0
    assert peek(backing_loop, 0, 16 * MIB) == backing.read_bytes() == content


def test_resize(ctl, written, loop):
    """To all that a device has that has grown, with all its dirty data; smaller and larger is refused."""
    os.truncate(written.cache_path, CACHE_BYTES + 3 * SEGMENT)
    assert "already" in ctl.run("resize", loop).stdout, "what the device does not know of yet"
    losetup("--set-capacity", loop)
    before = written.digests()
    assert "cannot be made larger" in ctl.refused("resize", loop, "--size", "1G")
    assert "512 MiB or more" in ctl.refused("resize", loop, "--size", "490M")
    assert written.digests() == before
    assert ctl.json("resize", loop, "--size", "530M") == {"segments": 33, "before": 31}
    assert ctl.json("resize", loop) == {"segments": 34, "before": 33}
    assert ctl.json("resize", loop) == {"segments": 34, "before": 34}
    assert ctl.json("resize", loop, "--size", "512M") == {"segments": 31, "before": 34}
    assert os.stat(written.cache_path).st_size == CACHE_BYTES + 3 * SEGMENT, "a device cannot be cut"
    assert ctl.json("resize", loop) == {"segments": 34, "before": 31}
    for cache in (loop, written.cache_path):
        checked = ctl.json("check", cache, "--backing", written.backing_path)
        assert checked["findings"] == [] and checked["segments"] == 34 and checked["dirty_bytes"] > 0
    with written.open() as cache:
        assert cache.info.segments == 34 and read_all(cache) == written.content


def test_settings_and_repair(ctl, written, loop):
    """What they write is in the file behind the device, durable."""
    ctl.run("set", loop, "gc_percent", "33")
    assert ctl.json("status", written.cache_path)["gc_percent"] == 33
    old = ctl.json("identity", "show", loop)["uuid"]
    ctl.run("identity", "set", loop, "--backing", written.backing_path)
    assert ctl.json("identity", "show", written.cache_path)["uuid"] != old
    newest = max((8192, 12288), key=lambda at: peek(written.cache_path, at + 4, 1))
    patch(loop, 8192 + 12288 - newest + 16, b"\xff")
    os.sync()
    ctl.run("check", loop, code=1)
    ctl.run("repair", loop, "--yes")
    ctl.run("check", written.cache_path)


def test_format(ctl, pair, loop):
    pair.used = True
    assert ctl.json("format", loop, "--data-crc", "--backing", pair.backing_path, "--force")["segments"] == 31
    assert "live key" in ctl.refused("format", loop)
    assert "--size" in ctl.refused("format", loop, "--size", "1G", "--force")
    assert ctl.json("check", pair.cache_path, "--backing", pair.backing_path)["findings"] == []
    with pair.open() as cache:
        assert cache.info.data_crc
    pair.close_all()
    patch(loop, 0, bytes(MIB))
    patch(loop, 0x8001, b"CD001")  # an ISO 9660 file system, to libblkid
    patch(loop, 0x8000, b"\x01")
    assert "--force" in ctl.refused("format", loop)
    ctl.run("format", loop, "--force")


def test_attached_elsewhere(ctl, written, loop, disk):
    """Refused, by whatever command; who has it may be the kernel target."""
    before = written.digests()
    held = os.open(loop, os.O_RDONLY | os.O_EXCL)
    try:
        for command in (["check", loop], ["status", loop], ["writeback", loop, "--to", written.backing_path],
                        ["set", loop, "gc_percent", "1"], ["format", loop, "--force"],
                        ["export", loop, "--backing", written.backing_path, "--to", disk / "whole"]):
            told = ctl.refused(*command)
            assert loop in told and "in use" in told
    finally:
        os.close(held)
    assert written.digests() == before


def test_one_device_for_both(ctl, written, loop, disk):
    """Also by another name."""
    node = disk / "node"
    os.mknod(node, stat.S_IFBLK | 0o600, os.stat(loop).st_rdev)
    os.symlink(loop, disk / "link")
    before = written.digests()
    assert "both" in ctl.refused("check", loop, "--backing", node)
    assert "both" in ctl.refused("identity", "set", node, "--backing", loop)
    for cache, to in ((loop, loop), (loop, node), (node, loop), (loop, disk / "link"), (disk / "link", node)):
        for more in ([], ["--ignore-identity"]):
            assert "both" in ctl.refused("writeback", cache, "--to", to, *more)
    assert written.digests() == before


def test_calibrate_has_nothing_to_measure(ctl, written, loop):
    assert "block device" in ctl.refused("calibrate", loop)


def test_export_onto_a_block_device_is_refused(ctl, written, loop):
    told = ctl.refused("export", written.cache_path, "--backing", written.backing_path, "--to", loop)
    assert "block device" in told and "dd of=" in told


@pytest.mark.damages_image
def test_damage_is_told_as_of_a_file(ctl, written, loop):
    patch(loop, SUPERBLOCK, b"\xff" * 4)
    assert ctl.json("check", loop, code=UNTRUSTED)["findings"][0]["code"] == "superblock"
    assert os.path.getsize(written.cache_path) == 512 * MIB


def test_format_says_what_is_not_used(shm):
    """Of more than 16 TiB, before it begins, which is all that is waited for: the whole would store 12 GiB."""
    path = shm / "huge"
    with open(path, "wb") as f:
        f.truncate(MOST_BYTES + (1 << 40))
    with loop_over(path) as device, subprocess.Popen(
            Ctl.argv("format", device), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (1, 1))) as formatting:
        said = formatting.stderr.readline()
        formatting.kill()
        assert not formatting.stdout.read()
    assert said == (f"pcachectl: {1 << 40} bytes of the device are not used: a pcache has 1048576 segments of 16 MiB "
                    "(16 TiB) at most\n")
