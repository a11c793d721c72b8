# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl over media that fails: real SIGBUS, by pages that madvise(MADV_HWPOISON) has poisoned."""

import ctypes
import errno
import mmap
import os

import pytest

from ctl import FINDINGS, UNTRUSTED
from measure.libpcache import MIB
from support import CACHE_CTRL, PAGE, SEGMENT, SEGMENTS_AT, read_all, stamp

MADV_HWPOISON = 100


@pytest.fixture
def poison(pair):
    """poison(offset): the page there fails from now on. The file is removed after the test."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def poison_page(off):
        with open(pair.cache_path, "r+b") as f, mmap.mmap(f.fileno(), PAGE, offset=off) as page:
            page[0:1] = page[0:1]  # it is there, and a page of its own
            at = ctypes.addressof(ctypes.c_char.from_buffer(page))
            if libc.madvise(at, PAGE, MADV_HWPOISON):
                code = ctypes.get_errno()
                if code in (errno.EPERM, errno.EINVAL):
                    pytest.skip(f"madvise(MADV_HWPOISON): {os.strerror(code)}: it takes root, and a kernel with "
                                "CONFIG_MEMORY_FAILURE")
                raise OSError(code, os.strerror(code))
    yield poison_page
    pair.close_all()
    pair.cache_path.unlink()


@pytest.fixture
def written(pair):
    """24 MiB of dirty data; its log begins in segment 0."""
    with open(pair.backing_path, "r+b") as f:
        f.truncate(64 * MIB)
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        for off in range(0, 24 * MIB, MIB // 4):
            cache.write(off, stamp(off, MIB // 4, 1))
            if off % MIB == 0:
                cache.flush()
        pair.content = read_all(cache)
    return pair


def export(ctl, pair, disk):
    told = ctl.json("export", pair.cache_path, "--backing", pair.backing_path, "--to", disk / "whole", "--force",
                    code=UNTRUSTED)
    return told, (disk / "whole").read_bytes()


def right_pages(got, want):
    return sum(got[at:at + PAGE] == want[at:at + PAGE] for at in range(0, len(want), PAGE))


@pytest.mark.damages_image
def test_a_free_segment_is_a_finding(ctl, written, poison):
    used = ctl.jsons("dump", written.cache_path, "--what", "segments")
    free = next(one for one in used if one["use"] == "free")
    poison(free["at"] + 5 * PAGE)
    report = ctl.json("check", written.cache_path, "--backing", written.backing_path, code=FINDINGS)
    assert [one["code"] for one in report["findings"]] == ["unreadable-page"]
    assert str(free["at"] + 5 * PAGE) in report["findings"][0]["where"] and "free" in report["findings"][0]["text"]


@pytest.mark.damages_image
@pytest.mark.parametrize("at, what", [(0, "identity"), (8192, "replica 0"), (12288, "replica 1"),
                                      (CACHE_CTRL, "key_tail"), (SEGMENTS_AT + 3 * SEGMENT, "segment 3"),
                                      (SEGMENTS_AT + 30 * SEGMENT + 8192, "segment 30")])
def test_every_record_that_cannot_be_read_is_named(ctl, written, poison, at, what):
    poison(at)
    done = ctl.call("check", written.cache_path, "--backing", written.backing_path)
    assert done.returncode in (FINDINGS, UNTRUSTED) and done.stderr == ""
    assert any(f"at {at}: 4096 bytes" in line and what in line for line in done.stdout.splitlines()), done.stdout


@pytest.mark.damages_image
def test_the_logs_first_page(ctl, written, poison, disk):
    """What stands in it is lost; the ksets behind it are found."""
    log = next(one for one in ctl.jsons("dump", written.cache_path, "--what", "segments") if one["use"] == "log")
    poison(log["at"] + 3 * PAGE)
    told, got = export(ctl, written, disk)
    keys_of_a_page = PAGE // 40 + 1
    assert told["cached_bytes"] > 0 and len(got) == len(written.content)
    lost = len(written.content) // PAGE - right_pages(got, written.content)
    assert 0 < lost * PAGE <= 2 * keys_of_a_page * MIB // 4
    report = ctl.json("check", written.cache_path, "--backing", written.backing_path, code=UNTRUSTED)
    assert not report["attaches"] and "log-unreadable" in [one["code"] for one in report["findings"]]


@pytest.mark.damages_image
def test_the_tails(ctl, written, poison, disk):
    """The whole log is found without them."""
    poison(CACHE_CTRL)
    told, got = export(ctl, written, disk)
    assert got == written.content and told["lost_bytes"] == 0
    assert any("found by looking" in one["text"] for one in told["lost"])


@pytest.mark.damages_image
def test_the_tails_and_the_logs_first_page(ctl, written, poison, disk):
    log = next(one for one in ctl.jsons("dump", written.cache_path, "--what", "segments") if one["use"] == "log")
    poison(CACHE_CTRL)
    poison(log["at"] + 3 * PAGE)
    told, got = export(ctl, written, disk)
    assert told["cached_bytes"] > 0 and right_pages(got, written.content) > 0


@pytest.mark.damages_image
def test_dirty_data(ctl, written, poison, disk):
    """Its range is named; all else is exported."""
    piece = ctl.json("dump", written.cache_path, "--range", "1M+4K")
    poison(piece["at"] // PAGE * PAGE)
    report = ctl.json("check", written.cache_path, "--backing", written.backing_path, code=UNTRUSTED)
    assert "bad-dirty-data" in [one["code"] for one in report["findings"]] and report["attaches"]
    told, got = export(ctl, written, disk)
    assert 0 < told["lost_bytes"] <= 2 * PAGE
    assert len(written.content) // PAGE - right_pages(got, written.content) <= 2
