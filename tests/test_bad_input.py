# SPDX-License-Identifier: GPL-2.0-or-later
"""Every bad input gets one line that names the thing, and nothing is touched."""

import errno
import os
import random
import socket
import struct
import subprocess
import sys

import pytest

from measure.libpcache import FUA, MIB, PcacheError
from support import (CACHE_CTRL, CACHE_INFO, PAGE, SECTOR, SEGMENT, SEGMENTS_AT, SUPERBLOCK, Pair,
                     file_state, make_backing, patch, peek, read_all, run_by_owner, sealed, stamp, superblock,
                     system_tool)


def refused(pair, code, *words, **options):
    """Opening is refused with `code` and one line that has all `words`; nothing is touched."""
    regular = [path for path in (pair.cache_path, pair.backing_path) if os.path.isfile(path)]

    def states():
        found = [file_state(path) for path in regular]
        if code == errno.EBUSY:  # who has it attached touches its pages meanwhile
            for state in found:
                del state["mtime_ns"]
        return found

    before = states()
    with pytest.raises(PcacheError) as caught:
        pair.open(**options)
    text = caught.value.text
    assert caught.value.code == code, f"{errno.errorcode[caught.value.code]}: {text}"
    assert "\n" not in text and 10 < len(text) < 500
    for word in words:
        assert str(word) in text, f"{word!r} is not named in: {text}"
    assert states() == before, "something was changed"
    return text


@pytest.fixture
def used(pair):
    """A pair with acknowledged data, closed."""
    cache = pair.open()
    for n in range(20):
        cache.write(n * 64 * 1024, stamp(n * 64 * 1024, 2 * PAGE, 1), flags=FUA)
    cache.close()
    return pair


def still_whole(pair):
    with pair.open() as cache:
        for n in range(20):
            assert cache.read(n * 64 * 1024, 2 * PAGE) == stamp(n * 64 * 1024, 2 * PAGE, 1)


# ---- The cache device ----

def test_missing_cache_device(pair, shm):
    pair.cache_path = shm / "none"
    refused(pair, errno.ENOENT, pair.cache_path, "cache_size")
    assert not pair.cache_path.exists(), "it was created"


@pytest.mark.parametrize("which", ["cache_path", "backing_path"])
@pytest.mark.parametrize("path", [None, ""])
def test_no_path(pair, which, path):
    setattr(pair, which, path)
    with pytest.raises(PcacheError) as caught:
        pair.open()
    assert caught.value.code == errno.EINVAL and which in caught.value.text


@pytest.mark.parametrize("size", [1, 4096, 512 * MIB - 4096, 512 * MIB - 1])
def test_too_small_cache_file(pair, shm, size):
    pair.cache_path = shm / "small"
    with open(pair.cache_path, "wb") as f:
        f.truncate(size)
    refused(pair, errno.EINVAL, pair.cache_path, "needed")


def test_empty_cache_file(pair, shm):
    pair.cache_path = shm / "empty"
    pair.cache_path.touch()
    refused(pair, errno.EINVAL, pair.cache_path, "cache_size")
    assert pair.cache_path.stat().st_size == 0


@pytest.mark.parametrize("which,code", [("cache_path", errno.EINVAL), ("backing_path", errno.ENOTBLK)])
@pytest.mark.parametrize("kind", ["directory", "socket", "fifo", "/dev/null", "/dev/zero"])
def test_not_a_device(pair, shm, which, code, kind):
    path = shm / "thing"
    if kind == "directory":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = kind
    setattr(pair, which, path)
    text = refused(pair, code, path)
    assert {"/dev/null": "character device", "/dev/zero": "character device", "fifo": "FIFO"}.get(kind, kind) in text


@pytest.mark.parametrize("which", ["cache_path", "backing_path"])
def test_path_through_a_file(pair, which):
    setattr(pair, which, f"{pair.backing_path}/x")
    refused(pair, errno.ENOTDIR, pair.backing_path)


READ_ONLY_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from measure.libpcache import Cache, PcacheError
try:
    Cache(sys.argv[2], sys.argv[3])
except PcacheError as error:
    print(error.code, error.text)
"""


def test_read_only_cache_file(pair):
    os.chmod(pair.cache_path, 0o444)
    try:
        got = run_by_owner(READ_ONLY_CHILD, pair.cache_path, pair.backing_path)
    finally:
        os.chmod(pair.cache_path, 0o600)
    assert got.startswith(f"{errno.EACCES} ") and str(pair.cache_path) in got


def test_not_dax_without_emulation(pair):
    refused(pair, errno.EINVAL, pair.cache_path, "emulate_pmem", emulate_pmem=0)


# ---- What stands on it ----

@pytest.mark.parametrize("force", [0, 1])
@pytest.mark.parametrize("sb,word", [
    (superblock(magic=0x1122334455667788), "magic"),
    (superblock(flags=1), "big-endian"),
    (superblock(seg_num=32), "32"),
    (superblock(seg_num=0), "0 segments"),
    (superblock(seg_num=2 ** 32 - 1), "4294967295"),
    (b"\x01" + superblock()[1:], "crc"),
    (superblock()[:16] + b"\x11" + superblock()[17:], "crc"),
    (superblock(magic=0), "magic is 0"),
    (bytes(range(1, 25)), "magic"),
], ids=["foreign magic", "big-endian", "seg_num 32 of 31", "seg_num 0", "seg_num huge", "crc", "flipped",
        "magic 0", "garbage"])
def test_bad_superblock(used, sb, word, force):
    old = patch(used.cache_path, SUPERBLOCK, sb)
    refused(used, errno.EUCLEAN, used.cache_path, "superblock", word, force=force)
    patch(used.cache_path, SUPERBLOCK, old)
    still_whole(used)


@pytest.mark.parametrize("kept,word", [(0, "identity block"), (CACHE_INFO, "cache_info"),
                                       (CACHE_INFO + PAGE, "cache_info"), (CACHE_CTRL, "cache_ctrl")])
def test_one_page_of_metadata_left(used, kept, word):
    """Blank is what is zeros in its first 20 KiB, and nothing else."""
    used.open(gc_percent=50).close()  # both replicas are written
    old = patch(used.cache_path, 0, bytes(SEGMENTS_AT))
    patch(used.cache_path, kept, old[kept:kept + PAGE])
    if kept == CACHE_CTRL:  # tails that lead nowhere
        patch(used.cache_path, SEGMENTS_AT + 12 * 1024, bytes(64))
    refused(used, errno.EUCLEAN, used.cache_path, word, "damaged, not blank", "first 20 KiB")
    if kept == CACHE_CTRL:
        patch(used.cache_path, 0, bytes(SEGMENTS_AT))
    else:
        patch(used.cache_path, 0, old)
        still_whole(used)


@pytest.mark.parametrize("identity", ["kept", "zeroed"])
def test_zeroed_superblock_over_a_live_log(used, identity):
    """A lost superblock is not a blank device."""
    old = patch(used.cache_path, SUPERBLOCK, bytes(24))
    first = patch(used.cache_path, 0, bytes(PAGE)) if identity == "zeroed" else None
    refused(used, errno.EUCLEAN, used.cache_path, "superblock", "log with data", "segment 0:0")
    patch(used.cache_path, SUPERBLOCK, old)
    if first:
        patch(used.cache_path, 0, first)
    still_whole(used)


def test_zeroed_superblock_and_tails_over_a_live_log(used):
    """The whole of the first 20 KiB zeroed is the documented way to give a cache up: it is blank."""
    patch(used.cache_path, 0, bytes(SEGMENTS_AT))
    with used.open() as cache:
        assert read_all(cache) == stamp(0, 16 * MIB, 0)


def test_garbage_in_the_first_page(pair):
    """A file system or partition table, no superblock: somebody else's data."""
    with open(pair.cache_path, "r+b") as f:
        f.write(bytes(446) + b"partition table" + bytes(49) + b"\x55\xaa")
    refused(pair, errno.EUCLEAN, pair.cache_path, "first 4096 bytes")


def test_garbage_everywhere(pair):
    with open(pair.cache_path, "r+b") as f:
        f.write(random.Random(1).randbytes(64 * 1024))
    refused(pair, errno.EUCLEAN, pair.cache_path)


def test_file_system_in_the_cache_file(pair, shm):
    """A real one: ext4 and swap leave the first 4 KiB or the superblock's place mostly empty."""
    subprocess.run([system_tool("mkfs.ext4", "e2fsprogs"), "-q", "-F", str(pair.cache_path)], check=True)
    refused(pair, errno.EUCLEAN, pair.cache_path)


def test_zeroed_first_bytes_of_someone_elses_device(pair):
    """Nothing in the first 20 KiB, data right behind: blank by the format's rule (magic 0)."""
    patch(pair.cache_path, SEGMENTS_AT, b"\xaa" * MIB)
    with pair.open() as cache:
        assert read_all(cache) == stamp(0, 16 * MIB, 0)


@pytest.mark.parametrize("force", [0, 1])
def test_no_cache_info_is_not_formatted_again(used, force):
    """Hazard formatted-again: a valid superblock without a valid cache_info is refused."""
    olds = [patch(used.cache_path, CACHE_INFO + slot * PAGE + 8, b"\xff") for slot in (0, 1)]
    refused(used, errno.EUCLEAN, used.cache_path, "cache_info", force=force)
    for slot, old in enumerate(olds):
        patch(used.cache_path, CACHE_INFO + slot * PAGE + 8, old)
    still_whole(used)


def newest_info(path):
    slots = [peek(path, CACHE_INFO + slot * PAGE, 24) for slot in (0, 1)]
    return 0 if (slots[0][4] - slots[1][4]) % 256 < 128 else 1


@pytest.mark.parametrize("field,value,word", [
    (8, struct.pack("<I", 31), "segment 31"), (8, struct.pack("<I", 2 ** 32 - 1), "cache_info"),
    (12, struct.pack("<I", 0), "cache_info"), (12, struct.pack("<I", 32), "32 segments"),
    (16, struct.pack("<I", 70 << 6 | 5 << 2 | 2), "mode 5"), (16, struct.pack("<I", 70 << 6), "init_done")],
    ids=["seg_id 31", "seg_id huge", "n_segs 0", "n_segs 32", "mode unknown", "init not done"])
def test_bad_cache_info_under_a_valid_crc(used, field, value, word):
    at = CACHE_INFO + newest_info(used.cache_path) * PAGE
    record = peek(used.cache_path, at, 24)
    patch(used.cache_path, at, sealed(record[:field] + value + record[field + 4:]))
    refused(used, errno.EUCLEAN, used.cache_path, word)
    patch(used.cache_path, at, record)
    still_whole(used)


def tail(seg, off, seq=9):
    return sealed(struct.pack("<IBBHII", 0, seq, 0, 0, seg, off))


@pytest.mark.parametrize("name,record", [("key_tail", 0), ("dirty_tail", 32)])
@pytest.mark.parametrize("slots", [
    (b"\xff" * 16, b"\xff" * 16), (bytes(16), bytes(16)),
    (tail(31, 0), bytes(16)), (tail(2 ** 32 - 1, 0), bytes(16)), (tail(0, SEGMENT), bytes(16)),
    (tail(0, 2 ** 32 - 8), bytes(16)), (tail(0, 12), bytes(16))],
    ids=["both torn", "both zero", "segment 31", "segment huge", "past the end", "offset huge", "odd"])
def test_bad_tails(used, name, record, slots):
    old = patch(used.cache_path, CACHE_CTRL + record, b"".join(slots))
    refused(used, errno.EUCLEAN, used.cache_path, name)
    patch(used.cache_path, CACHE_CTRL + record, old)
    still_whole(used)


def test_dirty_tail_that_is_no_kset(used):
    """Between two ksets, or before key_tail: writeback would start nowhere."""
    for position in (tail(0, 32), tail(5, 0)):
        old = patch(used.cache_path, CACHE_CTRL + 32, position)
        refused(used, errno.EUCLEAN, used.cache_path, "dirty_tail")
        patch(used.cache_path, CACHE_CTRL + 32, old)
    still_whole(used)


KEY = "<QIIIIQII"


def with_key(used, **fields):
    """The first kset's only key, changed, under a valid crc. Returns the undo."""
    at = SEGMENTS_AT + 12 * 1024
    kset = peek(used.cache_path, at, 64)
    assert struct.unpack_from("<I", kset, 4)[0] == 1
    names = ["off", "len", "flags", "cache_seg_id", "cache_seg_off", "seg_gen", "data_crc", "reserved"]
    key = dict(zip(names, struct.unpack(KEY, kset[24:])))
    key.update(fields)
    patch(used.cache_path, at, sealed(kset[:24] + struct.pack(KEY, *key.values())))
    return lambda: patch(used.cache_path, at, kset)


@pytest.mark.parametrize("fields", [
    {"off": 16 * MIB}, {"off": 2 ** 64 - 512}, {"off": 16 * MIB - PAGE, "len": 2 * PAGE},
    {"off": 4 * MIB - SECTOR, "len": 2 * SECTOR}, {"off": 100}, {"len": 0}, {"len": 100}, {"len": 8 * MIB},
    {"len": 2 ** 32 - 512}, {"cache_seg_id": 31}, {"cache_seg_id": 2 ** 32 - 1}, {"cache_seg_id": 0},
    {"cache_seg_off": SEGMENT - 12 * 1024}, {"cache_seg_off": SEGMENT - 12 * 1024 - SECTOR},
    {"cache_seg_off": 2 ** 32 - 512}, {"cache_seg_off": 7}, {"flags": 1}, {"flags": 0x80}],
    ids=str)
def test_bad_key_under_a_valid_crc(used, fields):
    """Hazard media-numbers-trusted: numbers from the media are checked, whatever the crc says."""
    undo = with_key(used, **fields)
    refused(used, errno.EUCLEAN, used.cache_path, "log at segment 0:0", "key 0")
    undo()
    still_whole(used)


def test_last_kset_to_nowhere_or_to_data(used):
    """LAST at the log's end: to a segment that does not exist, to the log itself, to one with live data."""
    end = SEGMENTS_AT + 12 * 1024 + 20 * 64
    for segment in (31, 2 ** 32 - 1, 0, 1):
        kset = struct.pack("<IIQQ", 0, segment, 0x676894A64E164F1A, 1)
        old = patch(used.cache_path, end, sealed(kset))
        refused(used, errno.EUCLEAN, used.cache_path, "LAST" if segment != 1 else "holds data")
        patch(used.cache_path, end, old)
    still_whole(used)


def test_damaged_identity_block(used):
    old = patch(used.cache_path, 100, b"\xff\xee")
    refused(used, errno.EUCLEAN, used.cache_path, "identity")
    patch(used.cache_path, 100, old)
    still_whole(used)


def test_truncated_cache_file(used):
    """Cut short behind the cache's back: the superblock names more segments than there are."""
    os.truncate(used.cache_path, 544 * MIB)
    used.open().close()
    os.truncate(used.cache_path, 512 * MIB - SEGMENT)
    refused(used, errno.EINVAL, used.cache_path, 512 * MIB - SEGMENT, 31 * SEGMENT + SEGMENTS_AT, "cut")
    os.truncate(used.cache_path, 512 * MIB)


@pytest.mark.damages_image
def test_truncated_cache_file_of_more_than_the_least_size(pair):
    pair.open(cache_size=560 * MIB).close()
    os.truncate(pair.cache_path, 528 * MIB)
    refused(pair, errno.EUCLEAN, pair.cache_path, "34", "32", 528 * MIB, 34 * SEGMENT + SEGMENTS_AT)


# ---- The backing device ----

def test_missing_backing_device_leaves_no_cache_file(pair, shm, disk):
    pair.cache_path, pair.backing_path = shm / "new", disk / "none"
    refused(pair, errno.ENOENT, pair.backing_path, cache_size=512 * MIB)
    assert not pair.cache_path.exists()
    assert not pair.backing_path.exists()


@pytest.mark.parametrize("size", [0, 1, 511])
def test_empty_backing_device(pair, disk, size):
    pair.backing_path = disk / "empty"
    pair.backing_path.write_bytes(b"e" * size)
    refused(pair, errno.EINVAL, pair.backing_path)


def test_backing_without_direct_io(pair, shm):
    """ramfs and old tmpfs refuse O_DIRECT; where /dev/shm takes it there is nothing to refuse."""
    path = make_backing(shm / "backing", MIB)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        pair.backing_path = path
        refused(pair, errno.EINVAL, path, "O_DIRECT")


def test_backing_size_that_is_no_multiple_is_said(pair, disk):
    pair.backing_path = disk / "odd"
    pair.backing_path.write_bytes(stamp(0, MIB, 0) + b"tail" * 25)
    with pair.open() as cache:
        assert cache.info.logical_bytes == MIB
        assert any("100" in line and str(pair.backing_path) in line for line in cache.warnings)


def test_wrong_backing_device(used, disk):
    right = used.backing_path
    used.backing_path = make_backing(disk / "other", 16 * MIB)
    text = refused(used, errno.EXDEV, used.cache_path, "force")
    assert f"ino={right.stat().st_ino}" in text and f"ino={used.backing_path.stat().st_ino}" in text
    used.backing_path = right
    still_whole(used)


@pytest.mark.damages_image
def test_wrong_backing_device_by_force(used, disk):
    right = used.backing_path
    used.backing_path = make_backing(disk / "other", 16 * MIB, tag=7)
    with used.open(force=1) as cache:
        assert any("force" in line for line in cache.warnings)
        assert cache.read(8 * MIB, PAGE) == stamp(8 * MIB, PAGE, 7)
        assert cache.read(0, PAGE) == stamp(0, PAGE, 1)
    used.open().close()  # it belongs to the other one now
    used.backing_path = right
    refused(used, errno.EXDEV)


@pytest.mark.parametrize("size", [8 * MIB, 16 * MIB - SECTOR, 32 * MIB, 16 * MIB + SECTOR])
def test_backing_changed_in_size(used, size):
    os.truncate(used.backing_path, size)
    refused(used, errno.EXDEV, used.cache_path, 16 * MIB, size)
    os.truncate(used.backing_path, 16 * MIB)
    with used.open() as cache:
        assert cache.read(0, PAGE) == stamp(0, PAGE, 1)


@pytest.mark.damages_image
def test_backing_shrunk_below_the_cached_data(used):
    """Not even by force: the log names ranges that are not there any more."""
    os.truncate(used.backing_path, MIB)
    refused(used, errno.EUCLEAN, used.cache_path, "past the backing device", force=1)


def test_renamed_backing_device_is_the_same(used, disk):
    os.rename(used.backing_path, disk / "renamed")
    used.backing_path = disk / "renamed"
    still_whole(used)


def test_cache_and_backing_are_one_file(pair):
    pair.backing_path = pair.cache_path
    with pytest.raises(PcacheError) as caught:
        pair.open()
    assert caught.value.code == errno.EINVAL and "one and the same" in caught.value.text
    assert str(pair.cache_path) in caught.value.text
    assert peek(pair.cache_path, 0, SEGMENTS_AT) == bytes(SEGMENTS_AT)


# ---- In use ----

def test_two_opens_in_one_process(pair, disk):
    with pair.open(writeback_interval_ms=3_600_000) as cache:  # writeback would change the cache
        cache.write(0, b"1" * PAGE, flags=FUA)
        refused(pair, errno.EBUSY, "in use")
        other = Pair(pair.cache_path, make_backing(disk / "other", 16 * MIB))
        refused(other, errno.EBUSY, pair.cache_path)
        assert cache.read(0, PAGE) == b"1" * PAGE
    pair.open().close()


def test_one_backing_device_of_two_caches(pair, shm):
    with pair.open():
        other = Pair(shm / "second", pair.backing_path)
        refused(other, errno.EBUSY, pair.backing_path, cache_size=512 * MIB)
        assert not other.cache_path.exists()


def test_two_processes(pair):
    child = ("import sys; sys.path.insert(0, sys.argv[3])\n"
             "from measure.libpcache import *\n"
             "c = Cache(sys.argv[1], sys.argv[2]); print('open', flush=True); sys.stdin.read(); c.close()")
    with subprocess.Popen([sys.executable, "-B", "-c", child, str(pair.cache_path), str(pair.backing_path),
                           os.path.dirname(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"open\n"
        refused(pair, errno.EBUSY, "in use")
        process.stdin.close()
        assert process.wait() == 0
    pair.open().close()


# ---- No space for the cache file ----

def test_no_space_for_the_cache_file(small_shm, pair):
    """On a full file system creating fails at once, and not by SIGBUS in the middle of a write."""
    pair.cache_path = small_shm(300) / "cache"
    refused(pair, errno.ENOSPC, pair.cache_path, 512 * MIB, cache_size=512 * MIB)
    assert not pair.cache_path.exists(), "half a file was left"
    with open(pair.cache_path, "wb") as f:  # a sparse one that cannot be filled
        f.truncate(512 * MIB)
    refused(pair, errno.ENOSPC, pair.cache_path)
    assert pair.cache_path.stat().st_size == 512 * MIB


def test_extending_without_space_leaves_the_file(small_shm, pair):
    pair.cache_path = small_shm(530) / "cache"
    with open(pair.cache_path, "wb") as f:  # blank, a part of it in blocks
        f.truncate(512 * MIB)
        f.seek(SEGMENTS_AT)
        f.write(b"e" * MIB)
    refused(pair, errno.ENOSPC, pair.cache_path, cache_size=600 * MIB)
    with pair.open() as cache:
        assert read_all(cache) == stamp(0, 16 * MIB, 0)


# ---- Errors while it runs ----

def test_cache_file_cut_under_an_open_cache_is_an_io_error(pair):
    """SIGBUS becomes EIO of that request; what is left is served."""
    child = ("import os, sys; sys.path.insert(0, sys.argv[3])\n"
             "from measure.libpcache import *\n"
             "c = Cache(sys.argv[1], sys.argv[2])\n"
             "for n in range(64): c.write(n % 16 * MIB, bytes([n]) * MIB)\n"
             "c.flush()\n"
             "os.truncate(sys.argv[1], 32 * MIB)\n"
             "bad = 0\n"
             "for n in range(16):\n"
             "    try: c.read(n * MIB, 4096)\n"
             "    except OSError as e: assert e.errno == 5; bad += 1\n"
             "print(bad, flush=True); os._exit(0)")
    got = subprocess.run([sys.executable, "-B", "-c", child, str(pair.cache_path), str(pair.backing_path),
                          os.path.dirname(__file__)], capture_output=True, text=True, check=False)
    assert got.returncode == 0, got
    assert int(got.stdout) == 16
