# SPDX-License-Identifier: GPL-2.0-or-later
"""Power loss under ext4: some crashes of ext4_crashes.py; that its judge notices; the recording, and a new one."""

import os
import re

import pytest

import ext4_recording
from device_stack import Failed, good
from ext4_crashes import OPTIONS, RECORDING, Judge, broken_promise, check, crashes, missing_for_crashes
from ext4_recording import BLOCK, DEVICE_BYTES, FLUSH, MARK, READ, TRIM, WRITE, ZERO, apply, bytes_of, holds, \
    read_recording

LONG = os.environ.get("PCACHE_LONG") == "1"
POINTS = 150 if LONG else 12  # of each of OPTIONS: some 16 states, with strict order 30 images


@pytest.fixture(scope="module")
def records():
    return read_recording(RECORDING)


@pytest.fixture
def proved():
    if why := missing_for_crashes():
        pytest.skip(why)


def on_a_plain_file(records, path, every=1):
    """(marks that were reached, the file with all requests up to there) at every so many marks, and at the end."""
    image, marks = bytearray(DEVICE_BYTES), 0
    for n, record in enumerate(records):
        marks += record[0] == MARK
        apply(image, record)
        if n == len(records) - 1 or (record[0] == MARK and marks % every == 0):
            path.write_bytes(image)
            yield marks, path


@pytest.mark.hang_seconds(7200)
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_each_state_of_a_crash_is_what_was_promised(proved, shm, options):
    found = crashes(shm, points=POINTS, options=options)
    images = found["images"]
    assert sum(images.values()) >= POINTS and {"cache, foreground", "cache, background"} <= images.keys(), found
    assert ("--relaxed" in options) != ("device, background" in images), found
    assert found["freed_segments"] and found["log_segments"] and found["reclaimed_ksets"], found
    assert found["written_back_bytes"] > 8 << 20, found


def test_replayed_on_a_plain_file_it_passes(records, shm):
    judge = Judge(records, shm)
    for marks, image in on_a_plain_file(records, shm / "image", every=40):
        judge.judge(image, marks)
    kinds = [record[0] for record in records]
    assert all(kinds.count(kind) > 5 for kind in (WRITE, FLUSH, TRIM, ZERO, READ, MARK))
    assert ext4_recording.journal_rounds(records, image) > 1  # it has wrapped


def test_a_flush_that_does_nothing_is_noticed(records, shm):
    """So the judge can fail: of what the last FLUSH has covered, nothing is on the device."""
    judge, image, marks, kept, noticed = Judge(records, shm), bytearray(DEVICE_BYTES), 0, [b"", b""], []
    for record in records:
        apply(image, record)
        marks += record[0] == MARK
        if record[0] == FLUSH:
            kept = [kept[1], bytes(image)]
        if record[0] == MARK and marks % 25 == 0:
            (shm / "image").write_bytes(kept[0])
            try:
                judge.judge(shm / "image", marks)
            except Failed as failed:
                noticed.append(str(failed))
    assert len(noticed) > 5 and any("promised" in one for one in noticed), noticed


def test_a_fence_of_flush_left_out_is_noticed(proved, shm):
    """The last one of KeyLog's, behind which a FLUSH is acknowledged."""
    sites = shm / "sites"
    crashes(shm, points=1, sites=sites)
    line = max(map(int, re.findall(r"^fence:keylog/key_log\.cc:(\d+)$", sites.read_text(), re.M)))
    with pytest.raises(Failed, match="promised|e2fsck"):
        crashes(shm, points=40, mutant=f"fence:keylog/key_log.cc:{line}")


@pytest.mark.parametrize("mutant,options,words", [
    ("dirty-tail-ahead-of-disk", ["--relaxed", "--gc-percent=1"], r"\(cache.*(promised|never made|e2fsck|debugfs)"),
    ("superseded-across-a-barrier", [], r"\(device.*(at none of the marks|e2fsck)"),
    ("fua-forgotten", ["--fua"], r"\(cache.*(promised|e2fsck)")])
def test_a_hazard_is_noticed(proved, shm, mutant, options, words):
    with pytest.raises(Failed, match=f"(?s){words}"):
        crashes(shm, points=40, options=options, mutant=f"hazard:{mutant}")


def test_damage_is_noticed(records, shm):
    (_marks, image), = on_a_plain_file(records, shm / "image", every=len(records))
    whole, promised = image.read_bytes(), ext4_recording.promises(records)
    content = max((rule["is"][0] for rule in promised[-1].values() if rule["is"][0]), key=lambda content: content[1])
    at = whole.rindex(bytes_of(*content)[:BLOCK])
    image.write_bytes(whole[:at] + b"?" + whole[at + 1:])  # of a file, so the file system is sound
    check(image)
    with pytest.raises(Failed, match="promised"):
        Judge(records, shm).judge(image, len(promised))
    at = BLOCK * int(re.search(r"Inode table at (\d+)", good("dumpe2fs", image))[1])
    image.write_bytes(whole[:at] + bytes(BLOCK) + whole[at + BLOCK:])
    with pytest.raises(Failed, match="e2fsck"):
        check(image)


def test_the_rules():
    a, b, longer = [1, 1500], [2, 1500], [1, 4000]
    one, two, grown = (bytes_of(*content) for content in (a, b, longer))
    assert grown[:1500] == one
    for rule, right, wrong in (
            ({"is": [a, None]}, [one, None], [one[:-1], two, b""]),
            ({"mixed": [a, b]}, [one, two, two[:512] + one[512:]], [None, one[:512], two[:100] + one[100:], grown]),
            ({"grows": [None, a]}, [None, b"", one[:512], one[:512] + bytes(512) + one[1024:], bytes(1500)],
             [two, one[:600] + bytes(900), grown]),
            ({"grows": [a, longer]}, [one, grown, grown[:3000], one + bytes(36) + grown[1536:], one + bytes(2500)],
             [None, one[:1000], bytes(4000), grown[:2000] + two[:1000], one + b"?"])):
        assert [holds(rule, got) for got in right] == [True] * len(right), rule
        assert [holds(rule, got) for got in wrong] == [False] * len(wrong), rule
    assert broken_promise({"f": {"is": [a]}}, {"f": one}) is None
    assert "is not there" in broken_promise({"f": {"is": [a]}}, {})
    assert "never made" in broken_promise({}, {"f": one})


def test_a_new_recording(proved, disk, shm):
    if why := ext4_recording.missing_for_recording():
        pytest.skip(why)
    new = disk / "new.recording"
    ext4_recording.record(new, steps=20, seed=7, folder=disk)
    records = read_recording(new)
    judge = Judge(records, shm)
    for marks, image in on_a_plain_file(records, shm / "image", every=10):
        judge.judge(image, marks)
    assert crashes(shm, new, points=4)["images"]
