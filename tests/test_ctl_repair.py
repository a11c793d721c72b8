# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl repair: what can be put right without a guess, with a copy of what was there."""

import hashlib
import json

import pytest

from ctl import DONE, FINDINGS, UNTRUSTED
from measure.libpcache import MIB
from support import (CACHE_BYTES, SEGMENTS_AT, crc32c, digest, golden_case, golden_damaged, golden_images, patch,
                     peek, read_all, stamp)


@pytest.mark.parametrize("case", golden_damaged(check_exit=1))
def test_plan_changes_nothing(ctl, golden, disk, case):
    """It tells the steps, exits as check does, and makes no file."""
    with golden.untouched_damaged(case) as pair:
        plan = ctl.json("repair", pair.cache_path, "--backing", pair.backing_path, code=FINDINGS)
        text = ctl.run("repair", pair.cache_path, "--backing", pair.backing_path, code=FINDINGS).stdout
    assert plan["steps"] and plan["left"] == [] and plan["done"] is False
    for step in plan["steps"]:
        assert f"{step['what']}: {step['why']} ({step['bytes']} bytes at {step['offset']})\n" in text
    assert "--yes" in text and list(disk.iterdir()) == []


@pytest.mark.parametrize("case", golden_damaged(check_exit=1))
def test_repair_and_restore(ctl, golden, shm, disk, case):
    """Clean after it, with all content; the copy takes it back byte for byte, and it can be done again."""
    pair = golden.copy_damaged(case, shm, disk)
    backing_before = digest(pair.backing_path)
    damaged = digest(pair.cache_path)
    for _round in range(2):
        done = ctl.json("repair", pair.cache_path, "--backing", pair.backing_path, "--yes", "--keep", disk / "kept")
        assert done["steps"] and done["done"] is True
        ctl.run("check", pair.cache_path, "--backing", pair.backing_path)
        repaired = digest(pair.cache_path)
        assert repaired != damaged
        head, *kept = [json.loads(line) for line in (disk / "kept").read_text().splitlines()]
        assert head["repair"] == 1 and head["cache_bytes"] == CACHE_BYTES
        assert [(one["offset"], len(one["before"]) // 2, len(one["after"]) // 2) for one in kept] == [
            (step["offset"], step["bytes"], step["bytes"]) for step in done["steps"]]
        ctl.run("repair", pair.cache_path, "--restore", disk / "kept")
        assert digest(pair.cache_path) == damaged, "not byte for byte as before the repair"
        (disk / "kept").unlink()
    ctl.run("repair", pair.cache_path, "--backing", pair.backing_path, "--yes", "--keep", disk / "kept")
    assert digest(pair.backing_path) == backing_before, "the backing device was written to"
    with pair.open() as cache:
        assert hashlib.sha256(read_all(cache)).hexdigest() == case["expect"]["logical_sha256"]


@pytest.mark.parametrize("case", golden_damaged(check_exit=2))
def test_what_is_lost_stays_so(ctl, golden, disk, case):
    """No byte is changed, --yes or not, and what is not repaired is said."""
    with golden.untouched_damaged(case) as pair:
        for more in ([], ["--yes"]):
            text = ctl.run("repair", pair.cache_path, "--backing", pair.backing_path, *more, code=UNTRUSTED).stdout
            assert "not repaired: " in text
        assert ctl.json("repair", pair.cache_path, "--backing", pair.backing_path, code=UNTRUSTED)["left"]
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("image", golden_images())
def test_nothing_to_repair(ctl, golden, disk, image):
    with golden.untouched(image["name"]) as pair:
        text = ctl.run("repair", pair.cache_path, "--backing", pair.backing_path, "--yes").stdout
    assert text == "nothing to repair\n" and list(disk.iterdir()) == []


@pytest.fixture
def torn(pair):
    """A pair of ours with a torn replica of cache_info, and its place."""
    with pair.open() as cache:
        cache.write(0, stamp(0, MIB, 1))
    pair.reopen(pair.open()).close()
    slots = {at: peek(pair.cache_path, at, 24)[4] for at in (8192, 12288)}
    older = min(slots, key=slots.get)
    patch(pair.cache_path, older + 12, b"\xee")
    return pair


def test_copy_has_a_name_of_its_own(ctl, torn, disk):
    """In the current directory, said on stdout."""
    text = ctl.run("repair", torn.cache_path, "--yes").stdout
    kept = [path for path in disk.iterdir() if path.name.startswith("cache.before-repair-")]
    assert len(kept) == 1 and kept[0].suffix == ".jsonl" and kept[0].name in text


def test_copy_that_cannot_be_kept(ctl, torn, disk):
    """Then nothing is repaired; what is there is not replaced."""
    (disk / "kept").write_text("mine")
    before = torn.digests()
    for keep in (disk / "kept", disk / "no" / "such", disk, "/dev/full"):
        ctl.run("repair", torn.cache_path, "--yes", "--keep", keep, code=3)
    assert torn.digests() == before and (disk / "kept").read_text() == "mine"
    ctl.run("repair", torn.cache_path, "--yes", "--keep", disk / "other")


def test_done_is_said_only_when_it_was(ctl, torn, disk):
    (disk / "kept").write_text("mine")
    done = ctl.run("repair", torn.cache_path, "--yes", "--keep", disk / "kept", "--json", code=3)
    assert '"done":true' not in done.stdout
    ctl.run("repair", torn.cache_path, "--yes")


def test_clean_data_needs_the_backing_device(ctl, golden):
    with golden.untouched_damaged(golden_case("data-flip-clean-crc-on")) as pair:
        plan = ctl.json("repair", pair.cache_path, "--yes", code=FINDINGS)
    assert plan["steps"] == [] and "--backing" in plan["left"][0]


def head(pair):
    """The first line of a copy: it names the image, by what stands in its first 20 KiB."""
    crc = crc32c(peek(pair.cache_path, 0, SEGMENTS_AT))
    return json.dumps({"repair": 1, "cache_bytes": CACHE_BYTES, "frame_crc_before": crc, "frame_crc_after": crc}) + "\n"


def step(offset, before, after):
    return json.dumps({"step": "", "offset": offset, "before": before, "after": after}) + "\n"


NO_COPIES = {
    "empty": "", "blank line": "\n", "no json": "no json\n", "array": "[]\n", "nothing": "{}\n",
    "no bytes": '{"offset":0}\n', "negative": step(-1, "00", "00"), "fraction": step(1.5, "00", "00"),
    "no hex": step(600, "xx", "00"), "odd hex": step(600, "000", "000"), "0x": step(600, "0x", "00"),
    "number": step(600, 7, 7), "empty bytes": step(600, "", ""), "lengths differ": step(600, "ff", "0000"),
    "behind the end": step(512 * MIB, "ff", "00"), "over the end": step(512 * MIB - 1, "ffff", "0000"),
    "overflow": step(2**64 - 1, "ffff", "0000"), "other bytes there": step(600, "ff", "77"),
    "sound, then not": step(600, "ff", "00") + "no json\n", "sound, then other bytes": step(600, "ff", "00") +
    step(601, "ff", "77")}


@pytest.mark.parametrize("content", NO_COPIES.values(), ids=NO_COPIES)
def test_restore_from_what_is_no_copy(ctl, pair, disk, content):
    """Refused as a whole: not even its sound lines are applied. 600 is in the identity page, where zeros are."""
    pair.open().close()
    assert peek(pair.cache_path, 600, 2) == bytes(2)
    before = pair.digests()
    (disk / "kept").write_text(head(pair) + content)
    done = ctl.call("repair", pair.cache_path, "--restore", disk / "kept")
    assert pair.digests() == before
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_restore_of_a_sound_copy(ctl, pair, disk):
    """So that the refusals above are not for the first line's sake."""
    pair.open().close()
    (disk / "kept").write_text(head(pair) + step(600, "0102", "0000"))
    ctl.run("repair", pair.cache_path, "--restore", disk / "kept")
    assert peek(pair.cache_path, 600, 2) == b"\x01\x02"
    patch(pair.cache_path, 600, bytes(2))


@pytest.mark.parametrize("change", ["no head", "another size", "attached since"])
def test_restore_of_another_image(ctl, pair, disk, change):
    pair.open().close()
    first = head(pair)
    if change == "no head":
        first = ""
    elif change == "another size":
        first = first.replace(str(CACHE_BYTES), str(2 * CACHE_BYTES))
    else:
        pair.open().close()
    (disk / "kept").write_text(first + step(600, "0102", "0000"))
    ctl.refused("repair", pair.cache_path, "--restore", disk / "kept")
    assert peek(pair.cache_path, 600, 2) == bytes(2)


def test_restore_from_what_cannot_be_read(ctl, pair, disk):
    pair.open().close()
    before = pair.digests()
    for kept in (disk / "missing", disk):
        ctl.refused("repair", pair.cache_path, "--restore", kept)
    assert pair.digests() == before


def test_restore_after_the_cache_was_used(ctl, golden, shm, disk):
    """Refused: what stands there is not the repair's any more, but newer."""
    pair = golden.copy_damaged(golden_case("kset-key-num-huge-at-head"), shm, disk)
    ctl.run("repair", pair.cache_path, "--backing", pair.backing_path, "--yes", "--keep", disk / "kept")
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(0, stamp(0, MIB, 1))
        content = read_all(cache)
    before = pair.digests()
    ctl.refused("repair", pair.cache_path, "--restore", disk / "kept")
    assert pair.digests() == before
    with pair.open() as cache:
        assert read_all(cache) == content


def test_blank(ctl, pair):
    before = pair.digests()
    assert ctl.run("repair", pair.cache_path, "--yes", code=DONE).stdout == "nothing to repair\n"
    assert pair.digests() == before
