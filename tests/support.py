# SPDX-License-Identifier: GPL-2.0-or-later
"""What several test files share: stamped sectors, digests, crc32c, pairs of files, golden images."""

import functools
import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import threading
import time
from array import array

import pytest

from libpcache import MIB, ROOT, WRITE, Cache, Request

SECTOR = 512
PAGE = 4096
RANGE = 4 * MIB
SEGMENT = 16 * MIB
SEGMENTS_AT = 20 << 10
CACHE_BYTES = 512 * MIB

# Media offsets and constants, from on-media-format.md.
SUPERBLOCK, CACHE_INFO, CACHE_CTRL = 4096, 8192, 16384
SUPERBLOCK_MAGIC = 0x65B05EFA96C596EF
KSET_MAGIC = 0x676894A64E164F1A


@functools.lru_cache(maxsize=16)
def stamp(off, length, tag):
    """Bytes for [off, off + length): every sector names its place and `tag`, so any mix is seen."""
    first = off // SECTOR
    return b"".join(struct.pack("<QQ", tag, sector) * 32 for sector in range(first, first + length // SECTOR))


def tag_of(sector_bytes, sector):
    """The tag of one stamped sector; AssertionError when it is torn or from elsewhere."""
    tag, place = struct.unpack_from("<QQ", sector_bytes)
    assert sector_bytes == struct.pack("<QQ", tag, place) * 32, f"sector {sector} is torn"
    assert place == sector, f"sector {sector} holds the data of sector {place}"
    return tag


def make_backing(path, size, tag=0):
    path.write_bytes(stamp(0, size, tag))
    return path


def digest(path):
    """sha256 of a file's size and content; all-zero chunks are cheap."""
    chunk = 1 << 16
    zeros = bytes(chunk)
    sha = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        size = f.seek(0, os.SEEK_END)
        sha.update(struct.pack("<Q", size))
        at = 0
        while at < size:
            try:
                at = max(at, os.lseek(f.fileno(), at, os.SEEK_DATA) // chunk * chunk)
            except OSError:  # nothing but a hole is left
                break
            f.seek(at)
            data = f.read(chunk)
            if data != zeros[:len(data)]:
                sha.update(struct.pack("<Q", at))
                sha.update(data)
            at += chunk
    return sha.hexdigest()


def _crc_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_CRC = _crc_table()


def crc32c(data, seed=0x3B15A):
    """As the format wants it: Castagnoli, no inversion."""
    for byte in data:
        seed = _CRC[(seed ^ byte) & 0xFF] ^ seed >> 8
    return seed


def sealed(record):
    """A record (bytes with a place for its crc in front) with a valid crc."""
    return struct.pack("<I", crc32c(record[4:])) + record[4:]


def superblock(magic=SUPERBLOCK_MAGIC, flags=0, seg_num=31):
    return sealed(struct.pack("<IIQII", 0, flags, magic, seg_num, 0))


def patch(path, offset, data):
    """Overwrites bytes of a file; returns what was there."""
    with open(path, "r+b") as f:
        f.seek(offset)
        old = f.read(len(data))
        f.seek(offset)
        f.write(data)
    return old


def peek(path, offset, length):
    with open(path, "rb") as f:
        f.seek(offset)
        return f.read(length)


def copy_sparse(source, target):
    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
    return target


def wait_until(condition, seconds=60):
    """Polls a condition, with a deadline that only a broken cache meets."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.005)


def read_all(cache, step=MIB):
    size = cache.info.logical_bytes
    return b"".join(cache.read(at, min(step, size - at)) for at in range(0, size, step))


def run_threads(*bodies):
    """Runs each in a thread, started together; raises the first failure."""
    failures = []
    start = threading.Barrier(len(bodies))

    def guarded(body):
        try:
            start.wait()
            body()
        except BaseException as failure:  # pylint: disable=broad-except
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class Shadow:
    """The tag of each sector: what stamped writes leave, cheap to keep and to compare with."""

    def __init__(self, size, tag=0):
        self.tags = array("Q", [tag]) * (size // SECTOR)

    def wrote(self, off, length, tag):
        self.tags[off // SECTOR:(off + length) // SECTOR] = array("Q", [tag]) * (length // SECTOR)

    def did(self, requests, order, tag):
        """Of prepared requests (of that first tag), these were done in this order."""
        last = {n: at for at, n in enumerate(order)}
        for n in sorted(last, key=last.get):
            self.wrote(requests[n].raw.off, requests[n].raw.len, tag + n)

    @property
    def content(self):
        words = array("Q", bytes(len(self.tags) * SECTOR))
        places = array("Q", range(len(self.tags)))
        for k in range(0, 64, 2):
            words[k::64], words[k + 1::64] = self.tags, places
        return words.tobytes()


def prepared(extents, tag):
    """Stamped WRITEs, to be done again and again: the n-th has tag + n."""
    return [Request(WRITE, off, stamp(off, length, tag + n)) for n, (off, length) in enumerate(extents)]


def events(cache):
    return cache.status["events"]


class Pair:
    """A cache file and its backing file, and the caches opened over them."""

    def __init__(self, cache_path, backing_path):
        self.cache_path, self.backing_path = cache_path, backing_path
        self._opened = []

    def open(self, **options):
        cache = Cache(self.cache_path, self.backing_path, **options)
        self._opened.append(cache)
        return cache

    def reopen(self, cache, **options):
        cache.close()
        return self.open(**options)

    def close_all(self):
        for cache in self._opened:
            cache.close()

    def digests(self):
        return digest(self.cache_path), digest(self.backing_path)


GOLDEN_WHERE = os.environ.get("PCACHE_GOLDEN", str(ROOT.parent / "shared" / "golden"))


def golden_json(name):
    """manifest.json or damaged.json, for parametrisation; empty when the images are not there."""
    path = pathlib.Path(GOLDEN_WHERE) / name
    return json.loads(path.read_text()) if GOLDEN_WHERE != "none" and path.exists() else []


class Golden:
    """Golden images, unpacked on first use: the cache file in /dev/shm, the backing file on the disk."""

    def __init__(self, shm, disk):
        self._shm, self._disk = shm, disk
        self.manifest = {image["name"]: image for image in golden_json("manifest.json")}

    def _unpack(self, name, kind, folder):
        path = folder / f"{name}.{kind}"
        if not path.exists():
            packed = pathlib.Path(GOLDEN_WHERE) / self.manifest[name][f"{kind}_file"]
            subprocess.run(["zstd", "-q", "-d", "--long=27", "--sparse", str(packed), "-o", str(path)],
                           check=True)
        return path

    def require(self):
        if GOLDEN_WHERE == "none":
            pytest.skip("PCACHE_GOLDEN=none: the kernel's golden images are not tested")
        if not self.manifest:
            pytest.fail(f"{GOLDEN_WHERE}/manifest.json is missing: without the golden images nothing "
                        "shows that the format is the kernel's. Set PCACHE_GOLDEN to their directory, or "
                        "to none to do without", pytrace=False)

    def pmem(self, name):
        """The image itself: not to be changed."""
        return self._unpack(name, "pmem", self._shm)

    def backing(self, name):
        return self._unpack(name, "backing", self._disk)

    def copy(self, name, shm, disk):
        """A pair over copies of the image."""
        return Pair(copy_sparse(self.pmem(name), shm / "cache"),
                    shutil.copy(self.backing(name), disk / "backing"))
