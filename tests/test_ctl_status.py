# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl status and table: what an image is, in the kernel target's own terms."""

import os
import shutil

import pytest

from ctl import UNTRUSTED
from measure.libpcache import MIB
from support import MOST_BYTES, golden_damaged, golden_images, make_backing, newest_tails, stamp

NAMES = ["start", "sectors", "target", "sb_flags", "seg_total", "cache_segs", "segs_used", "gc_percent",
         "cache_flags", "key_head", "dirty_tail", "key_tail"]


def position(text):
    return tuple(int(part) for part in text.split(":"))


@pytest.mark.parametrize("image", golden_images())
def test_line_is_the_kernels(ctl, golden, image):
    """Field by field. The kernel writes back and reclaims as it runs: its tails may be behind the image's."""
    with golden.untouched(image["name"]) as pair:
        line = ctl.run("status", "--line", pair.cache_path, "--backing", pair.backing_path).stdout
        status = ctl.json("status", pair.cache_path, "--backing", pair.backing_path)
        text = ctl.run("status", pair.cache_path, "--backing", pair.backing_path).stdout
        tails = newest_tails(pair.cache_path)
    ours = dict(zip(NAMES, line.split(), strict=True))
    after = dict(zip(NAMES, image["status_after_reattach"].split(), strict=True))
    before = dict(zip(NAMES, (image["status_before_stop_or_crash"] or image["status_after_reattach"]).split(),
                      strict=True))
    moving = {"key_head", "dirty_tail", "key_tail"} | (
        set() if image["status_before_stop_or_crash"] else {"segs_used"})
    assert {n: v for n, v in ours.items() if n not in moving} == {
        n: v for n, v in before.items() if n not in moving}
    assert ours["key_head"] in (before["key_head"], after["key_head"])
    for name, tail in tails.items():
        assert ours[name] == tail
        assert position(tail) <= position(after[name]) or image["name"].startswith("x_"), name
    if image["status_before_stop_or_crash"]:
        assert position(tails["key_tail"]) == position(before["key_tail"])
        assert position(tails["dirty_tail"]) >= position(before["dirty_tail"])
    assert status["line"] + "\n" == line and line in text
    assert status["log"]["key_head"] == ours["key_head"] and status["logical_bytes"] == image["logical_bytes"]


def test_line_is_what_the_library_says(ctl, pair):
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        for tag in range(40):
            cache.write(tag * 65536, stamp(tag * 65536, 65536, tag))
        cache.flush()
        line = cache.status_line
        dirty = cache.status["dirty"]
    assert ctl.run("status", "--line", pair.cache_path).stdout.split() == line.split()
    ours = ctl.json("status", pair.cache_path)["dirty"]
    assert ours["bytes"] == dirty["bytes"] == 40 * 65536 and ours["keys"] >= 1 and ours["ksets"] >= 1


def test_size_is_taken_from_the_identity_block(ctl, golden, pair):
    """Without --backing; 0 when there is none."""
    pair.open().close()
    assert ctl.run("status", "--line", pair.cache_path).stdout.split()[1] == str(16 * MIB // 512)
    assert ctl.json("status", pair.cache_path)["backing"]["bytes"] == 16 * MIB
    with golden.untouched("a_empty_crcoff") as kernels:
        assert ctl.run("status", "--line", kernels.cache_path).stdout.split()[1] == "0"
        assert ctl.json("status", kernels.cache_path)["backing"] is None


def test_blank(ctl, pair):
    assert "blank" in ctl.run("status", pair.cache_path).stdout
    assert ctl.json("status", pair.cache_path) == {"blank": True, "attaches": True}


def test_larger_than_a_pcache_can_be(ctl, shm):
    """A sparse file: check and status say what of it will not be used, once and in the same words."""
    path = shm / "huge"
    with open(path, "wb") as f:
        f.truncate(MOST_BYTES + (1 << 40))
    words = f"{1 << 40} bytes of the device are not used: a pcache has 1048576 segments of 16 MiB (16 TiB) at most"
    assert ctl.run("check", path).stdout.count(words) == 1
    assert ctl.run("status", path).stdout.splitlines()[1:] == [f"unused:    {words}"]
    assert ctl.json("status", path)["unused"] == words
    os.truncate(path, MOST_BYTES)
    assert "not used" not in ctl.run("check", path).stdout + ctl.run("status", path).stdout


@pytest.mark.parametrize("case", golden_damaged(attach="refuse"))
def test_damaged_image(ctl, golden, case):
    """As far as it is known, with the reason why it cannot be attached."""
    with golden.untouched_damaged(case) as pair:
        done = ctl.run("status", pair.cache_path, "--backing", pair.backing_path, code=UNTRUSTED)
        assert "cannot be attached" in done.stderr and str(pair.cache_path) in done.stderr
        assert not ctl.json("status", pair.cache_path, "--backing", pair.backing_path, code=UNTRUSTED)["attaches"]
        refused = ctl.refused("table", pair.cache_path, "--backing", pair.backing_path, code=UNTRUSTED)
        assert str(pair.cache_path) in refused


@pytest.mark.parametrize("image", golden_images())
def test_table_is_the_kernels(ctl, golden, image):
    """But for the paths of the two devices."""
    with golden.untouched(image["name"]) as pair:
        line = ctl.run("table", pair.cache_path, "--backing", pair.backing_path).stdout
        assert ctl.json("table", pair.cache_path, "--backing", pair.backing_path)["table"] + "\n" == line
    ours, kernels = line.split(), image["dm_table"].split()
    assert ours[:3] == kernels[:3] and ours[5:] == kernels[-5:]
    assert ours[3:5] == [str(pair.cache_path), str(pair.backing_path)]


def test_table_has_absolute_paths(ctl, pair, disk):
    pair.open(data_crc=1).close()
    (disk / "link").symlink_to(pair.cache_path)
    assert ctl.run("table", "link", "--backing", pair.backing_path.name).stdout == (
        f"0 {16 * MIB // 512} pcache {disk}/link {pair.backing_path} 4 cache_mode writeback data_crc true\n")


def test_table_of_another_backing_device(ctl, pair, disk):
    """A table that joins what does not belong together is not printed."""
    pair.open().close()
    other = make_backing(disk / "other", 16 * MIB)
    assert "names backing device" in ctl.refused("table", pair.cache_path, "--backing", other, code=UNTRUSTED)
    shutil.copy(pair.backing_path, disk / "copy")
    ctl.run("table", pair.cache_path, "--backing", disk / "copy", "--ignore-identity")
