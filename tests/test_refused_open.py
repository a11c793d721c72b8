# SPDX-License-Identifier: GPL-2.0-or-later
"""An attach that is refused has changed nothing: not a byte, not a block, not a time, of either file.

By kind of cache file and kind of refusal; what single damages are refused for is in test_bad_input.py, whose
refused() looks at the same.
"""

import errno
import json
import os
import subprocess
import sys

import pytest

from measure.libpcache import FUA, MIB, Cache, PcacheError
from support import (CACHE_BYTES, CACHE_INFO, PAGE, SECTOR, SEGMENT, SEGMENTS_AT, SUPERBLOCK, Pair, copy_sparse,
                     file_state, make_backing, patch, peek, stamp)


def refused(pair, code, *words, **options):
    before = file_state(pair.cache_path), file_state(pair.backing_path)
    with pytest.raises(PcacheError) as caught:
        Cache(pair.cache_path, pair.backing_path, **options)
    assert caught.value.code == code, caught.value.text
    assert "\n" not in caught.value.text
    for word in words:
        assert str(word) in caught.value.text, f"{word!r} is not named in: {caught.value.text}"
    after = file_state(pair.cache_path), file_state(pair.backing_path)
    assert after == before, "something was changed"


# ---- The cache file: how it lies there ----

def absent(pair):
    os.unlink(pair.cache_path)


def empty(pair):
    os.truncate(pair.cache_path, 0)


def short_blank(pair):
    """A part of a page, zeros."""
    os.truncate(pair.cache_path, 0)
    os.truncate(pair.cache_path, 6000)


def sparse_blank(pair):
    os.truncate(pair.cache_path, 0)
    os.truncate(pair.cache_path, CACHE_BYTES)
    patch(pair.cache_path, 3 * SEGMENT, b"x" * PAGE)


def allocated_blank(pair):
    """Blocks that were never written: tmpfs shows them as holes."""
    os.truncate(pair.cache_path, 0)
    with open(pair.cache_path, "r+b") as f:
        os.posix_fallocate(f.fileno(), 0, CACHE_BYTES)


def formatted(pair):
    """With dirty data, and a torn header at the log's end, which an attach clears."""
    with Cache(pair.cache_path, pair.backing_path) as cache:
        for n in range(20):
            cache.write(n * 64 * 1024, stamp(n * 64 * 1024, 2 * PAGE, 1), flags=FUA)
    patch(pair.cache_path, SEGMENTS_AT + 12 * 1024 + 20 * 64, b"\1\2\3\4")


def sparse_formatted(pair):
    """As an image that was copied."""
    formatted(pair)
    whole = pair.cache_path.with_suffix(".whole")
    os.rename(pair.cache_path, whole)
    copy_sparse(whole, pair.cache_path)
    whole.unlink()
    assert pair.cache_path.stat().st_blocks * 512 < CACHE_BYTES // 2


NEW = [absent, empty, short_blank]  # nothing but with cache_size
BLANK = [sparse_blank, allocated_blank]
FORMATTED = [formatted, sparse_formatted]


# ---- Refusals ----

def no_device(pair, run):
    right = pair.backing_path
    pair.backing_path = right.with_name("none")
    run(errno.ENOENT, "none")
    pair.backing_path = right


def device_in_use(pair, run):
    other = Cache(pair.cache_path.with_name("other"), pair.backing_path, cache_size=CACHE_BYTES)
    before = file_state(pair.backing_path)
    run(errno.EBUSY, "in use")
    assert file_state(pair.backing_path) == before
    other.close()
    pair.cache_path.with_name("other").unlink()


def unknown_method(pair, run):
    run(errno.EINVAL, "persist", persist="sometimes")


def no_queue(pair, run):
    """The two files can still be opened; what drives the device cannot."""
    run(errno.EMFILE, "", limit="files")


def no_threads(pair, run):
    run(errno.EAGAIN, "thread", limit="stacks")


def no_memory(pair, run):
    """Address space: of the index, or of a new file's mapping."""
    run(errno.ENOMEM, "", limit="index")


def other_device(pair, run):
    right = pair.backing_path
    pair.backing_path = make_backing(right.with_name("wrong"), 16 * MIB)
    run(errno.EXDEV, "force")
    pair.backing_path = right


def resized_device(pair, run):
    os.truncate(pair.backing_path, 16 * MIB + SECTOR)
    run(errno.EXDEV, "bytes")
    os.truncate(pair.backing_path, 16 * MIB)


def other_crc(pair, run):
    run(errno.EINVAL, "data_crc", data_crc=1, drain=1)


def larger_size(pair, run):
    run(errno.EINVAL, "pcachectl resize", cache_size=CACHE_BYTES + 2 * SEGMENT)


def cut_image(pair, run):
    """And asked to be as long as it was."""
    at = CACHE_BYTES - 2 * SEGMENT
    rest = peek(pair.cache_path, at, 2 * SEGMENT)
    os.truncate(pair.cache_path, at)
    run(errno.EINVAL, at, 31 * SEGMENT + SEGMENTS_AT, cache_size=CACHE_BYTES, drain=1)
    with open(pair.cache_path, "r+b") as f:
        f.seek(at)
        f.write(rest)


def lost_superblock(pair, run):
    old = patch(pair.cache_path, SUPERBLOCK, bytes(PAGE))
    run(errno.EUCLEAN, "damaged, not blank", cache_size=2 * CACHE_BYTES)
    patch(pair.cache_path, SUPERBLOCK, old)


def bad_cache_info(pair, run):
    olds = [patch(pair.cache_path, CACHE_INFO + slot * PAGE + 8, b"\xff") for slot in (0, 1)]
    run(errno.EUCLEAN, "cache_info")
    for slot, old in enumerate(olds):
        patch(pair.cache_path, CACHE_INFO + slot * PAGE + 8, old)


def bad_log(pair, run):
    old = patch(pair.cache_path, SEGMENTS_AT + 12 * 1024 + 8, b"\xff")
    run(errno.EUCLEAN, "log")
    patch(pair.cache_path, SEGMENTS_AT + 12 * 1024 + 8, old)


def no_length(pair, run):
    """The last that can be refused: the file's new part."""
    run(errno.EFBIG, "allocate", limit="length")


ALWAYS = [no_device, device_in_use, unknown_method, no_queue, no_threads, no_memory]
MEDIA = [other_device, resized_device, other_crc, larger_size, cut_image, lost_superblock, bad_cache_info, bad_log]

CASES = ([(kind, why) for kind in NEW for why in ALWAYS + [no_length]] +
         [(kind, why) for kind in BLANK for why in ALWAYS] +
         [(kind, why) for kind in FORMATTED for why in ALWAYS + MEDIA])

CHILD = """
import ctypes, json, os, resource, sys
sys.path.insert(0, sys.argv[1])
from measure import libpcache
limit, mapped, cache, backing, options = json.loads(sys.argv[2])
used = int(open("/proc/self/statm").read().split()[0]) * 4096
what, value = {"files": (resource.RLIMIT_NOFILE, 5), "length": (resource.RLIMIT_FSIZE, 100 << 20),
               "stacks": (resource.RLIMIT_AS, used + mapped + (64 << 20)),
               "index": (resource.RLIMIT_AS, used + mapped + (24 << 20))}[limit]
if limit == "stacks":  # 1 GiB for each thread, whatever ulimit -s says
    libc, attributes = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    assert libc.pthread_attr_init(attributes) == 0
    assert libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(1 << 30)) == 0
    assert libc.pthread_setattr_default_np(attributes) == 0
resource.setrlimit(what, (value, value))
try:
    libpcache.Cache(cache, backing, **options)
    print(json.dumps([0, "attached"]))
except libpcache.PcacheError as e:
    print(json.dumps([e.code, e.text]))
sys.stdout.flush()
os._exit(0)
"""


def refused_in_child(pair, code, *words, limit, **options):
    """The same in a process that is short of something."""
    before = file_state(pair.cache_path), file_state(pair.backing_path)
    mapped = before[0]["size"] if before[0] else 0
    asked = json.dumps([limit, mapped, str(pair.cache_path), str(pair.backing_path), options])
    got = subprocess.run([sys.executable, "-B", "-c", CHILD, os.path.dirname(__file__), asked], close_fds=True,
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert got.returncode == 0, got
    found, text = json.loads(got.stdout)
    assert found == code, text
    assert "\n" not in text and len(text) > 10
    for word in words:
        assert str(word) in text, f"{word!r} is not named in: {text}"
    after = file_state(pair.cache_path), file_state(pair.backing_path)
    assert after == before, "something was changed"


@pytest.mark.parametrize("kind,why", CASES, ids=lambda value: value.__name__)
def test_a_refused_attach_changes_nothing(shm, backing, kind, why):
    pair = Pair(shm / "cache", backing)
    with open(pair.cache_path, "wb") as f:
        f.truncate(CACHE_BYTES)
    kind(pair)
    size = {"cache_size": CACHE_BYTES} if kind in NEW else {}

    def run(code, *words, **options):
        (refused_in_child if "limit" in options else refused)(pair, code, *words, **size | options)

    why(pair, run)
    with Cache(pair.cache_path, pair.backing_path, **size) as cache:  # and nothing keeps it from being attached
        want = 1 if kind in FORMATTED else 0
        for n in range(20):
            assert cache.read(n * 64 * 1024, 2 * PAGE) == stamp(n * 64 * 1024, 2 * PAGE, want)


# ---- The cut image ----

def test_a_cut_image_is_not_made_long_again(pair):
    """Its data would be zeros, and drained to the disk."""
    pair.open(gc_percent=90).close()
    with pair.open() as cache:
        for at in range(0, 16 * MIB, MIB):
            cache.write(at, stamp(at, MIB, 1), flags=FUA)
    for size in (CACHE_BYTES - 28 * MIB, PAGE * 3, 64 << 10):
        os.truncate(pair.cache_path, size)
        refused(pair, errno.EINVAL, size, 31 * SEGMENT + SEGMENTS_AT, cache_size=CACHE_BYTES, drain=1)
    assert peek(pair.backing_path, 0, 16 * MIB) == stamp(0, 16 * MIB, 0)
    os.truncate(pair.cache_path, 0)
    os.truncate(pair.cache_path, CACHE_BYTES)


# ---- Block devices ----

def test_a_block_device_as_cache_is_refused_with_what_to_do(pair):
    node = pair.backing_path.with_name("node")
    try:
        os.mknod(node, 0o600 | 0o060000, os.makedev(7, 250))  # a loop device; it need not be there
    except PermissionError:
        pytest.skip("mknod of a block device is not permitted here (needs root): there is none to try")
    with pytest.raises(PcacheError) as caught:
        Cache(node, pair.backing_path)
    assert caught.value.code == errno.EINVAL
    for word in (node, "a block device", "devdax", "file system mounted with -o dax"):
        assert str(word) in caught.value.text
    assert len(caught.value.text.splitlines()) == 1
