# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl export: the logical device as a file, whole or not at all."""

import hashlib
import shutil

import pytest

from ctl import UNTRUSTED
from libpcache import MIB
from support import (SECTOR, golden_case, golden_damaged, golden_images, make_backing, read_all, stamp,
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
    ctl.refused("export", pair.cache_path, "--backing", other, "--to", disk / "whole", code=UNTRUSTED)
    assert not (disk / "whole").exists()
    shutil.copy(pair.backing_path, disk / "copy")
    ctl.run("export", pair.cache_path, "--backing", disk / "copy", "--to", disk / "whole", "--ignore-identity")
    assert (disk / "whole").read_bytes() == content


def test_blank_is_the_backing_device_when_forced(ctl, pair, disk):
    line = ["export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole"]
    assert "blank" in ctl.refused(*line)
    assert not (disk / "whole").exists()
    ctl.run(*line, "--force")
    assert (disk / "whole").read_bytes() == pair.backing_path.read_bytes()
