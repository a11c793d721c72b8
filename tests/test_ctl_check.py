# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl check: everything in an image is judged, and nothing is written."""

import json
import re
import shutil
import struct
import zlib

import pytest

from ctl import DONE, FINDINGS, UNTRUSTED
from measure.libpcache import MIB, PcacheError
from support import (PAGE, SEGMENT, SEGMENTS_AT, SUPERBLOCK, SUPERBLOCK_MAGIC, copy_sparse, golden_damaged,
                     golden_images, make_backing, patch, peek, read_all, sealed, stamp, superblock)


def worst(report):
    """The exit status that the findings alone would give."""
    order = ["note", "finding", "lost"]
    return max((order.index(finding["severity"]) for finding in report["findings"]), default=0)


@pytest.mark.parametrize("image", golden_images())
def test_kernel_image_is_sound(ctl, golden, image):
    """Neither file changes by a byte, with and without the backing device."""
    with golden.untouched(image["name"]) as pair:
        report = ctl.json("check", pair.cache_path, "--backing", pair.backing_path)
        text = ctl.run("check", pair.cache_path, "--backing", pair.backing_path).stdout
        alone = ctl.run("check", pair.cache_path).stdout
    assert report["exit_code"] == 0 and report["attaches"] and not report["blank"]
    assert worst(report) == 0 and report["segments"] == 31
    assert [finding["code"] for finding in report["findings"]][0] == "no-identity"
    assert (report["keys"] == 0) == (image["name"] == "a_empty_crcoff")
    dirty = re.fullmatch(r"sound, (nothing|[0-9.]+ [KMG]iB) dirty", text.splitlines()[-1])
    assert (dirty.group(1) == "nothing") == (report["dirty_bytes"] == 0) and report["verdict"] == dirty.group(0)
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


def test_blank_is_sound(ctl, pair):
    """A blank device is formatted when it is attached: nothing is wrong with it."""
    before = pair.digests()
    assert ctl.json("check", pair.cache_path, "--backing", pair.backing_path)["blank"]
    assert pair.digests() == before


@pytest.mark.parametrize("data_crc", [0, 1])
def test_image_of_ours_is_sound(ctl, pair, data_crc):
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


@pytest.mark.parametrize("at, length", [(4096, 24), (8192, 8192), (16384, 64), (20480, 12288)])
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


def test_garbage_in_front_of_the_superblock_is_not_ours(ctl, pair, shm):
    """The kernel target never looks there: a sound cache, of which nothing says whose it is."""
    with pair.open() as cache:
        cache.write(0, stamp(0, MIB, 1))
    copied = copy_sparse(pair.cache_path, shm / "copy")
    for fill in (b"\xff", b"\x5a", b"\x01"):
        patch(copied, 0, fill * 4096)
        report = ctl.json("check", copied, "--backing", pair.backing_path)
        assert report["attaches"]


def raise_generation(path, segment):
    """As if the segment had been freed: a newer record of the next generation."""
    at = SEGMENTS_AT + segment * SEGMENT + 8192
    records = [struct.unpack("<IBxxxQ", peek(path, at + 16 * slot, 16)) for slot in (0, 1)]
    newest = 0 if records[0][1] > records[1][1] else 1
    patch(path, at + 16 * (1 - newest), sealed(struct.pack("<IBxxxQ", 0, records[newest][1] + 1,
                                                           records[newest][2] + 1)))


@pytest.mark.damages_image
@pytest.mark.parametrize("data_crc", [0, 1])
def test_dirty_data_of_a_generation_that_is_gone(ctl, pair, disk, data_crc):
    """check names the ranges and export refuses, writeback writes nothing, attach says so and serves the rest."""
    with pair.open(data_crc=data_crc, writeback_interval_ms=3_600_000) as cache:
        cache.write(0, stamp(0, 17 * PAGE, 1))
        cache.write(8 * MIB, stamp(8 * MIB, PAGE, 1))
    segment = next(one for one in ctl.jsons("dump", pair.cache_path, "--what", "segments") if one["use"] == "data")
    raise_generation(pair.cache_path, segment["physical"])
    line = ["--backing", pair.backing_path]
    report = ctl.json("check", pair.cache_path, *line, code=UNTRUSTED)
    codes = [finding["code"] for finding in report["findings"]]
    assert codes == ["dead-dirty-keys", "lost-range", "lost-range"] and report["attaches"]
    assert report["lost_bytes"] == 18 * PAGE and report["dirty_bytes"] == 0
    assert report["findings"][1]["text"].startswith(f"0+{17 * PAGE}: ")
    before = pair.digests()
    assert "--force" in ctl.refused("export", pair.cache_path, *line, "--to", disk / "whole", code=UNTRUSTED)
    told = ctl.json("export", pair.cache_path, *line, "--to", disk / "whole", "--force", code=UNTRUSTED)
    assert told["lost_bytes"] == 18 * PAGE and (disk / "whole").read_bytes() == pair.backing_path.read_bytes()
    ctl.refused("writeback", pair.cache_path, "--to", pair.backing_path, code=UNTRUSTED)
    assert pair.digests() == before
    with pair.open() as cache:
        warned = [text for _level, text in cache.log if "generation that is gone" in text]
    assert len(warned) == 1 and f"{18 * PAGE} bytes in 2 ranges are lost" in warned[0]


def copy_kset(ctl, path, source, target):
    """The source-th kset's bytes over those of the target-th."""
    ksets = [one for one in ctl.jsons("dump", path, "--what", "ksets") if "keys" in one]
    base = {one["id"]: one["at"] for one in ctl.jsons("dump", path, "--what", "segments")}

    def place(kset):
        segment, off = (int(part) for part in kset["position"].split(":"))
        return base[segment] + 3 * PAGE + off
    patch(path, place(ksets[target]), peek(path, place(ksets[source]), 24 + 40 * ksets[source]["keys"]))


@pytest.mark.damages_image
@pytest.mark.parametrize("target, code", [(2, "repeated-keys"), (1, "log-cut"), (3, "repeated-keys")])
def test_kset_copied_over_a_later_one(ctl, pair, disk, target, code):
    """Of the same length, of a shorter and of a longer one: what was there is lost, and nobody calls that sound."""
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        for tag, pages in enumerate((3, 5, 3, 1, 4), 1):
            for page in range(pages):
                cache.write(page * PAGE, stamp(page * PAGE, PAGE, tag))
            cache.flush()
    line = ["--backing", pair.backing_path]
    ctl.run("check", pair.cache_path, *line)
    copy_kset(ctl, pair.cache_path, 0, target)
    report = ctl.json("check", pair.cache_path, *line, code=UNTRUSTED)
    assert code in [finding["code"] for finding in report["findings"]] and not report["attaches"]
    ctl.refused("set", pair.cache_path, "gc_percent", "20", code=UNTRUSTED)
    ctl.refused("export", pair.cache_path, *line, "--to", disk / "whole", code=UNTRUSTED)
    ctl.refused("writeback", pair.cache_path, "--to", pair.backing_path, code=UNTRUSTED)
    assert "nothing to repair" not in ctl.run("repair", pair.cache_path, *line, code=UNTRUSTED).stdout


@pytest.mark.damages_image
@pytest.mark.parametrize("data_crc", [False, True])
@pytest.mark.parametrize("target, left", [(2, (1, 2, 1, 4, 5)), (1, (1, 1)), (3, (1, 2, 3, 1))])
def test_a_copied_kset_is_told_by_attach_and_read_as_exported(ctl, pair, disk, target, left, data_crc):
    """Attach and export --force take the keys in the log's order: the copy's over those of the ksets between."""
    sizes = (3, 5, 3, 1, 4)
    with pair.open(writeback_interval_ms=3_600_000, data_crc=data_crc) as cache:
        for tag, pages in enumerate(sizes, 1):
            for page in range(pages):
                cache.write(page * PAGE, stamp(page * PAGE, PAGE, tag))
            cache.flush()
    with pair.open(readonly=1) as cache:
        assert "stands here again" not in str(cache.log)
    copy_kset(ctl, pair.cache_path, 0, target)
    ctl.run("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole", "--force",
            code=UNTRUSTED)
    expected = bytearray(pair.backing_path.read_bytes())
    for tag in left:
        for page in range(sizes[tag - 1]):
            expected[page * PAGE:(page + 1) * PAGE] = stamp(page * PAGE, PAGE, tag)
    before = pair.digests()
    with pytest.raises(PcacheError, match="the kset from 0:0 stands here again.* readonly=1 or pcachectl export"):
        pair.open()
    assert pair.digests() == before
    for options in ({"readonly": 1}, {"force": 1, "writeback_interval_ms": 3_600_000}):
        with pair.open(**options) as cache:
            told = [line for _level, line in cache.log if "stands here again" in line]
            assert len(told) == 1 and "the kset from 0:0 " in told[0], cache.log
            assert read_all(cache) == expected == (disk / "whole").read_bytes()


@pytest.mark.parametrize("seed, covered", [(0x3B15A, 20), (0x3B15A, 4092), (0, 4092)])
def test_another_version_of_the_format(ctl, pair, disk, seed, covered):
    """As dm-pcache was posted for review: crc32 in place of crc32c."""
    pair.open().close()
    page = superblock().ljust(PAGE, b"\0")
    crc = zlib.crc32(page[4:4 + covered], seed ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    kept = patch(pair.cache_path, SUPERBLOCK, struct.pack("<I", crc) + page[4:24])
    assert struct.unpack_from("<Q", page, 8)[0] == SUPERBLOCK_MAGIC
    before = pair.digests()
    report = ctl.json("check", pair.cache_path, "--backing", pair.backing_path, code=UNTRUSTED)
    assert [finding["code"] for finding in report["findings"]] == ["other-version"] and not report["attaches"]
    for more in ([], ["--force"]):
        assert "another version" in ctl.refused("export", pair.cache_path, "--backing", pair.backing_path, "--to",
                                                disk / "whole", *more, code=UNTRUSTED)
    assert "another version" in ctl.refused("format", pair.cache_path)
    with pytest.raises(PcacheError, match="another version"):
        pair.open()
    assert pair.digests() == before
    patch(pair.cache_path, SUPERBLOCK, kept)


def test_replica_never_written(ctl, golden, shm, disk):
    """As Linux 6.18.0 to 6.18.3 leave it, which write one replica alone: one verdict, and nothing to repair."""
    pair = golden.copy("d_crash_crcoff", shm, disk)
    with pair.open() as cache:  # cache_info is written again, to the other replica
        cache.read(0, PAGE)
    newest = max((8192, 12288), key=lambda at: peek(pair.cache_path, at + 4, 1))
    patch(pair.cache_path, 8192 + 12288 - newest, bytes(24))
    report = ctl.json("check", pair.cache_path, "--backing", pair.backing_path)
    assert [(one["severity"], one["code"]) for one in report["findings"]] == [("note", "unwritten-replica")]
    assert "nothing to repair" in ctl.run("repair", pair.cache_path, "--backing", pair.backing_path).stdout


def test_two_at_once(ctl, pair):
    """Readers do not keep each other out."""
    pair.open().close()
    both = [ctl.start("check", pair.cache_path, "--backing", pair.backing_path) for _ in range(8)]
    assert [one.wait() for one in both] == [DONE] * 8
