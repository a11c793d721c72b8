# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl export: the logical device as a file, whole or not at all."""

import hashlib
import json
import os
import shutil
import subprocess

import pytest

from ctl import UNTRUSTED
from measure.libpcache import MIB
from support import (SECTOR, golden_case, golden_damaged, golden_images, make_backing, peek, read_all, stamp,
                     wait_until)

# Of these every key is sound and found, so that nothing at all is missing in what --force takes.
WHOLE_ALL_THE_SAME = {"superblock-crc", "superblock-big-endian", "superblock-too-many-segments", "no-cache-info",
                      "dirty-tails-both-torn", "last-kset-cycle", "last-kset-out-of-range",
                      "segment-chain-cycle"}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("image", golden_images())
def test_kernel_image(ctl, golden, disk, image):
    """Byte for byte what the kernel read; neither device is written to."""
    with golden.untouched(image["name"]) as pair:
        told = ctl.json("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole")
    assert sha256(disk / "whole") == image["logical_sha256_kernel"]
    assert told["bytes"] == image["logical_bytes"] and told["lost"] == [] and told["lost_bytes"] == 0
    assert told["cached_bytes"] >= told["dirty_bytes"]


@pytest.mark.parametrize("case", golden_damaged())
def test_damaged_image(ctl, golden, disk, case):
    """Whole when nothing is lost; else refused, and no file is left."""
    (disk / "new").mkdir()
    to = disk / "new" / "whole"
    with golden.untouched_damaged(case) as pair:
        code = UNTRUSTED if case["expect"]["check_exit"] == UNTRUSTED else 0
        done = ctl.run("export", pair.cache_path, "--backing", pair.backing_path, "--to", to, code=code)
    if "logical_sha256" in case["expect"]:
        assert sha256(to) == case["expect"]["logical_sha256"]
    else:
        assert "--force" in done.stderr and done.stdout == ""
        assert list(to.parent.iterdir()) == []


def lost_ranges(ctl, golden, case):
    """[first, end) of what the case has damaged, from the undamaged image and the case."""
    if "eio_range" in case["expect"]:
        off, length = case["expect"]["eio_range"]
        return [(off, off + length)]
    with golden.untouched(case["base"]) as pair:
        keys = ctl.jsons("dump", pair.cache_path, "--what", "keys")
    if case["name"] == "kset-crc-mid-log":
        return [(key["off"], key["off"] + key["len"]) for key in keys if key["kset"] == "0:60120"]
    return [(key["off"], key["off"] + key["len"]) for key in keys if key["kset"] == "0:38000" and key["index"] == 0]


@pytest.mark.parametrize("case", golden_damaged(check_exit=2))
def test_force_takes_what_can_be_had(ctl, golden, disk, case):
    """Exit status 2, what is lost is listed, and nothing else is missing in the file."""
    with golden.untouched_damaged(case) as pair:
        told = ctl.json("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole", "--force",
                        code=UNTRUSTED)
        text = ctl.run("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "again", "--force",
                       code=UNTRUSTED).stdout
    assert told["lost"] and all(f"lost: {one['where']}: {one['text']}\n" in text for one in told["lost"])
    assert (disk / "whole").read_bytes() == (disk / "again").read_bytes()
    if case["name"] in WHOLE_ALL_THE_SAME:
        assert sha256(disk / "whole") == golden.entry(case["base"])["logical_sha256_kernel"]
        assert told["lost_bytes"] == 0
        return
    with golden.untouched(case["base"]) as pair:
        ctl.run("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "good")
    good, got = (disk / "good").read_bytes(), (disk / "whole").read_bytes()
    different = [at for at in range(0, len(good), SECTOR) if good[at:at + SECTOR] != got[at:at + SECTOR]]
    lost = lost_ranges(ctl, golden, case)
    assert len(good) == len(got)  # what a lost key named may have been written again later
    assert all(any(first <= at < end for first, end in lost) for at in different)


def test_lost_ranges_hold_the_backing_devices_data(ctl, golden, disk):
    case = golden_case("data-flip-dirty-crc-on")
    off, length = case["expect"]["eio_range"]
    with golden.untouched_damaged(case) as pair:
        told = ctl.json("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole", "--force",
                        code=UNTRUSTED)
        backing = pair.backing_path.read_bytes()
    assert told["lost_bytes"] == length
    assert (disk / "whole").read_bytes()[off:off + length] == backing[off:off + length]


@pytest.mark.parametrize("data_crc", [0, 1])
def test_image_of_ours(ctl, pair, disk, data_crc):
    """Dirty, clean, overwritten and never written ranges: what the library reads."""
    with pair.open(data_crc=data_crc, writeback_interval_ms=3_600_000) as cache:
        for tag in range(1, 60):
            off, length = tag * 7919 % 30000 * SECTOR, tag % 40 * SECTOR + SECTOR
            cache.write(off, stamp(off, length, tag))
        cache.read(8 * MIB, MIB)
        wait_until(lambda: cache.queue.in_flight == 0)
        content = read_all(cache)
    before = pair.digests()
    told = ctl.json("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole")
    assert (disk / "whole").read_bytes() == content and pair.digests() == before
    assert told["dirty_bytes"] > 0


def test_file_is_sparse(ctl, pair, disk):
    with open(pair.backing_path, "wb") as f:
        f.truncate(64 * MIB)
    with pair.open() as cache:
        cache.write(32 * MIB, stamp(32 * MIB, 4096, 1))
    ctl.run("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole")
    assert (disk / "whole").stat().st_size == 64 * MIB
    assert (disk / "whole").stat().st_blocks * 512 <= MIB


def test_target_is_never_replaced(ctl, pair, disk):
    """What is there stays, be it a file, a directory, a device, or a link that leads nowhere."""
    pair.open().close()
    (disk / "file").write_text("mine")
    (disk / "folder").mkdir()
    (disk / "link").symlink_to(disk / "nowhere")
    for to in (disk / "file", disk / "folder", disk / "link", "/dev/full", pair.cache_path, pair.backing_path):
        before = pair.digests()
        for more in ([], ["--force"]):
            assert str(to) in ctl.refused("export", pair.cache_path, "--backing", pair.backing_path, "--to", to,
                                          *more)
        assert pair.digests() == before
    assert (disk / "file").read_text() == "mine" and not (disk / "nowhere").exists()


def test_target_that_cannot_be_made(ctl, pair, disk):
    pair.open().close()
    for to in (disk / "no" / "such", "/proc/whole", pair.backing_path / "below", ""):
        ctl.refused("export", pair.cache_path, "--backing", pair.backing_path, "--to", to)


def test_other_backing_device(ctl, pair, disk):
    """The content would be a mixture: refused, unless a copy is meant."""
    with pair.open() as cache:
        cache.write(0, stamp(0, MIB, 1))
        content = read_all(cache)
    other = make_backing(disk / "other", 16 * MIB, tag=9)
    told = ctl.refused("export", pair.cache_path, "--backing", other, "--to", disk / "whole", code=UNTRUSTED)
    assert "identity block" in told and 0 < told.index("--ignore-identity") < told.index("--force")
    assert not (disk / "whole").exists()
    shutil.copy(pair.backing_path, disk / "copy")
    ctl.run("export", pair.cache_path, "--backing", disk / "copy", "--to", disk / "whole", "--ignore-identity")
    assert (disk / "whole").read_bytes() == content


@pytest.mark.parametrize("to", ["-", "/dev/stdout"])
def test_to_stdout(ctl, pair, disk, to):
    """In order and with the zeros of holes, into a pipe or a file; what is told goes to stderr."""
    with open(pair.backing_path, "r+b") as f:
        os.posix_fallocate(f.fileno(), 0, 16 * MIB)
        f.truncate(0)
        f.truncate(16 * MIB)
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(9 * MIB, stamp(9 * MIB, MIB, 1))
        content = read_all(cache)
    line = ["export", pair.cache_path, "--backing", pair.backing_path, "--to", to]
    piped = ctl.call(*line, text=False, errors=None)
    assert piped.returncode == 0 and piped.stdout == content
    assert piped.stderr.startswith(b"pcachectl: stdout: 16 MiB" if to == "-" else b"pcachectl: /dev/stdout: 16 MiB")
    with open(disk / "file", "wb") as f:
        f.write(b"before")
        f.flush()
        ctl.call(*line, stdout=f)
    assert (disk / "file").read_bytes() == b"before" + content
    assert json.loads(ctl.call(*line, "--json", stdout=subprocess.DEVNULL).stderr)["bytes"] == 16 * MIB


def test_to_what_is_no_file(ctl, pair, disk):
    """A pipe with a reader and /dev/null are written to; what cannot take it is refused in one line, and no wait."""
    pair.open().close()
    line = ["export", pair.cache_path, "--backing", pair.backing_path, "--to"]
    assert "/dev/null: 16 MiB" in ctl.run(*line, "/dev/null").stdout
    os.mkfifo(disk / "pipe")
    assert "reader" in ctl.refused(*line, disk / "pipe", timeout=60)
    with subprocess.Popen(["sha256sum", disk / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        done = ctl.call(*line, disk / "pipe")
        while done.returncode and "reader" in done.stderr:  # it has not opened it yet
            done = ctl.call(*line, disk / "pipe")
        assert reader.stdout.read().split()[0] == sha256(pair.backing_path)
    gone, end = os.pipe()
    os.close(gone)
    with os.fdopen(end, "wb") as closed:
        told = ctl.call(*line, "-", stdout=closed).stderr
    assert told == "pcachectl: stdout: cannot be written: Broken pipe\n"


def test_a_huge_sparse_device_costs_what_it_holds(ctl, pair, disk):
    """Only what is allocated, or cached, is looked at; to ask for each part of it would last longer than is waited."""
    with open(pair.backing_path, "r+b") as f:
        f.truncate(12 << 40)
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(9 << 40, stamp(9 << 40, MIB, 1))
    ctl.run("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole", timeout=120)
    assert peek(disk / "whole", 9 << 40, MIB) == stamp(9 << 40, MIB, 1)
    assert peek(disk / "whole", 0, 16 * MIB) == peek(pair.backing_path, 0, 16 * MIB)
    assert (disk / "whole").stat().st_size == 12 << 40


def test_blank_is_the_backing_device_when_forced(ctl, pair, disk):
    line = ["export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole"]
    assert "blank" in ctl.refused(*line)
    assert not (disk / "whole").exists()
    ctl.run(*line, "--force")
    assert (disk / "whole").read_bytes() == pair.backing_path.read_bytes()
