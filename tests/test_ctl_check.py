# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl check: everything in an image is judged, and nothing is written."""

import json
import shutil

import pytest

from ctl import DONE, FINDINGS, UNTRUSTED
from libpcache import MIB
from support import PAGE, copy_sparse, golden_damaged, golden_images, make_backing, patch, stamp


def worst(report):
    """The exit status that the findings alone would give."""
    order = ["note", "finding", "lost"]
    return max((order.index(finding["severity"]) for finding in report["findings"]), default=0)


@pytest.mark.parametrize("image", golden_images())
def test_kernel_image_is_clean(ctl, golden, image):
    """Neither file changes by a byte, with and without the backing device."""
    with golden.untouched(image["name"]) as pair:
        report = ctl.json("check", pair.cache_path, "--backing", pair.backing_path)
        text = ctl.run("check", pair.cache_path, "--backing", pair.backing_path).stdout
        alone = ctl.run("check", pair.cache_path).stdout
    assert report["exit_code"] == 0 and report["attaches"] and not report["blank"]
    assert worst(report) == 0 and report["segments"] == 31
    assert [finding["code"] for finding in report["findings"]][0] == "no-identity"
    assert (report["keys"] == 0) == (image["name"] == "a_empty_crcoff")
    assert text.splitlines()[-1] == "clean"
    assert "without --backing" in alone and "without --backing" not in text


@pytest.mark.parametrize("case", golden_damaged())
def test_damaged_image(ctl, golden, case):
    """The exit status is the case's, what is found is said, and neither file changes by a byte."""
    expect = case["expect"]
    with golden.untouched_damaged(case) as pair:
        report = ctl.json("check", pair.cache_path, "--backing", pair.backing_path, code=expect["check_exit"])
        text = ctl.run("check", pair.cache_path, "--backing", pair.backing_path, code=expect["check_exit"]).stdout
    assert report["exit_code"] == expect["check_exit"] == worst(report), case["why"]
    assert report["attaches"] == (expect["attach"] == "ok"), case["why"]
    for finding in report["findings"]:
        assert f"{finding['severity']}: {finding['where']}: {finding['text']}\n" in text
        assert finding["code"] and finding["where"] and finding["text"]
    if "eio_range" in expect:
        off, length = expect["eio_range"]
        assert f"range {off}+{length} " in text


def test_blank_is_clean(ctl, pair):
    """A blank device is formatted when it is attached: nothing is wrong with it."""
    before = pair.digests()
    assert ctl.json("check", pair.cache_path, "--backing", pair.backing_path)["blank"]
    assert pair.digests() == before


@pytest.mark.parametrize("data_crc", [0, 1])
def test_image_of_ours_is_clean(ctl, pair, data_crc):
    with pair.open(data_crc=data_crc, writeback_interval_ms=3_600_000) as cache:
        cache.write(MIB, stamp(MIB, MIB, 1))
        cache.read(4 * MIB, MIB)
    report = ctl.json("check", pair.cache_path, "--backing", pair.backing_path)
    assert report["findings"] == [] and report["dirty_bytes"] == MIB and report["keys"] >= 2


def test_other_backing_device(ctl, pair, disk):
    """Not attachable to it, unless a copy is meant."""
    pair.open().close()
    before = pair.digests()
    for other in (make_backing(disk / "other", 16 * MIB), make_backing(disk / "larger", 32 * MIB)):
        report = ctl.json("check", pair.cache_path, "--backing", other, code=UNTRUSTED)
        assert [finding["code"] for finding in report["findings"]] == ["other-backing"]
        assert not report["attaches"]
    shutil.copy(pair.backing_path, disk / "copy")
    ctl.run("check", pair.cache_path, "--backing", disk / "copy", "--ignore-identity")
    assert pair.digests() == before


def test_backing_device_that_has_shrunk(ctl, pair):
    """Keys name ranges that are gone; --ignore-identity does not hide it."""
    with pair.open() as cache:
        cache.write(15 * MIB, stamp(15 * MIB, PAGE, 1))
    with open(pair.backing_path, "r+b") as f:
        f.truncate(8 * MIB)
    for more in ([], ["--ignore-identity"]):
        ctl.run("check", pair.cache_path, "--backing", pair.backing_path, *more, code=UNTRUSTED)
    with open(pair.backing_path, "r+b") as f:
        f.truncate(16 * MIB)


@pytest.mark.damages_image
def test_torn_kset_at_the_logs_end(ctl, pair):
    with pair.open() as cache:
        cache.write(0, stamp(0, PAGE, 1))
    head = ctl.json("status", pair.cache_path)["log"]["key_head"]
    segment, off = (int(part) for part in head.split(":"))
    at = next(one for one in ctl.jsons("dump", pair.cache_path, "--what", "segments") if one["id"] == segment)["at"]
    patch(pair.cache_path, at + 3 * PAGE + off, bytes.fromhex("efbeadde810000001a4f164ea69468670000000000000000"))
    report = ctl.json("check", pair.cache_path, "--backing", pair.backing_path, code=FINDINGS)
    assert head in report["findings"][0]["where"] and report["attaches"]


@pytest.mark.parametrize("at, length", [(0, 4096), (4096, 24), (8192, 8192), (16384, 64), (20480, 12288)])
def test_garbage_in_any_record_ends_in_a_verdict(ctl, pair, shm, at, length):
    """Whatever stands there, check ends, names something, and attach agrees on whether it attaches."""
    with pair.open() as cache:
        cache.write(0, stamp(0, MIB, 1))
    copied = copy_sparse(pair.cache_path, shm / "copy")
    for fill in (b"\xff", b"\x5a", b"\x01"):
        patch(copied, at, fill * length)
        done = ctl.call("check", copied, "--backing", pair.backing_path, "--json")
        assert done.returncode == UNTRUSTED and done.stderr == "", done
        assert json.loads(done.stdout)["exit_code"] == UNTRUSTED


def test_two_at_once(ctl, pair):
    """Readers do not keep each other out."""
    pair.open().close()
    both = [ctl.start("check", pair.cache_path, "--backing", pair.backing_path) for _ in range(8)]
    assert [one.wait() for one in both] == [DONE] * 8
