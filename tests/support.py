# SPDX-License-Identifier: GPL-2.0-or-later
"""What several test files share: stamped sectors, digests, crc32c, pairs of files, golden images."""

import contextlib
import functools
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import threading
import time
from array import array

import pytest

from measure.libpcache import MIB, ROOT, WRITE, Cache, Request

SECTOR = 512
PAGE = 4096
RANGE = 4 * MIB
SEGMENT = 16 * MIB
SEGMENTS_AT = 20 << 10
CACHE_BYTES = 512 * MIB
MOST_BYTES = SEGMENTS_AT + 1048576 * SEGMENT  # more of a device is not used

# Media offsets and constants, from core/format/FORMAT.md.
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


def file_state(path):
    """All that an attach that is refused must leave: size, blocks, time of change, content. Before the content is
    read, which allocates nothing. None: there is no such file."""
    try:
        st = os.stat(path)
    except FileNotFoundError:
        return None
    return {"size": st.st_size, "blocks": st.st_blocks, "mtime_ns": st.st_mtime_ns, "content": digest(path)}


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

    made = []  # in the test that runs: conftest.py checks their images after it

    def __init__(self, cache_path, backing_path):
        self.cache_path, self.backing_path = cache_path, backing_path
        self.used = False  # has been attached
        self._opened = []
        Pair.made.append(self)

    def open(self, **options):
        cache = Cache(self.cache_path, self.backing_path, **options)
        self._opened.append(cache)
        self.used = True
        return cache

    def reopen(self, cache, **options):
        cache.close()
        return self.open(**options)

    def close_all(self):
        for cache in self._opened:
            cache.close()

    def digests(self):
        return digest(self.cache_path), digest(self.backing_path)


def run_by_owner(script, *arguments):
    """What a Python script says when only the modes of files count: root's right to pass over them is dropped."""
    before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    return subprocess.run([*before, sys.executable, "-B", "-c", script, os.path.dirname(__file__),
                           *map(str, arguments)], capture_output=True, text=True, check=True, timeout=60).stdout


def system_tool(name, package):
    """Its path, also where that of a normal user does not lead; a test without it is skipped with the cause."""
    path = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if not path:
        pytest.skip(f"{name} is missing: scripts/setup installs {package}")
    return path


def libnbd():
    """libnbd's module nbd, which bench/nbd.py hides where bench is on the path; a test without it is skipped."""
    others = [folder for folder in sys.path if pathlib.Path(folder).resolve() != ROOT / "bench"]
    spec = importlib.machinery.PathFinder.find_spec("nbd", others)
    if not spec or not spec.loader:
        pytest.skip("python3-libnbd is missing: scripts/setup installs it")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TESTDATA = ROOT / "tests" / "testdata"
GOLDEN_SET = "PCACHE_GOLDEN" in os.environ
GOLDEN_WHERE = pathlib.Path(os.environ.get("PCACHE_GOLDEN", ROOT.parent / "shared" / "golden"))
GOLDEN_MISSING = not (GOLDEN_WHERE / "manifest.json").exists()  # so too for PCACHE_GOLDEN=none
GOLDEN_SKIP = "golden image"  # what the causes of these skips begin with


def golden_summary():
    """One line: where the golden images are taken from."""
    if not GOLDEN_MISSING:
        return f"golden images: {GOLDEN_WHERE}"
    why = "PCACHE_GOLDEN=none" if str(GOLDEN_WHERE) == "none" else f"{GOLDEN_WHERE} is missing"
    missing = [name for name, (_image, where) in golden_manifest().items() if not where]
    return f"golden images: {why}: those of {TESTDATA} are tested, {' and '.join(missing)} are not"


def golden_manifest(*folders):
    """{name: (entry, the directory that has it; None: none)}; by default of tests/testdata, which has all entries, and
    PCACHE_GOLDEN, which goes before it."""
    found = {}
    for where in folders or (TESTDATA, GOLDEN_WHERE):
        if (where / "manifest.json").exists():
            for image in json.loads((where / "manifest.json").read_text()):
                if (where / image["pmem_file"]).exists():
                    found[image["name"]] = image, where
                else:
                    found.setdefault(image["name"], (image, None))
    return found


def golden_images():
    """Parameters: the entries of the manifest."""
    return [pytest.param(image, id=name) for name, (image, _where) in golden_manifest().items()]


def golden_damaged(**expect):
    """Parameters: the damaged cases, of which `expect` holds. All of them, whatever images are there."""
    where = TESTDATA if GOLDEN_MISSING else GOLDEN_WHERE
    lost = [pytest.mark.damages_image]  # no attach mends it
    return [pytest.param(case, id=case["name"], marks=lost if case["expect"]["check_exit"] == 2 else [])
            for case in json.loads((where / "damaged.json").read_text())
            if all(case["expect"][name] == value for name, value in expect.items())]


def golden_case(name):
    """One damaged case."""
    return next(param.values[0] for param in golden_damaged() if param.id == name)


class Golden:
    """Golden images, unpacked on first use: the cache file in /dev/shm, the backing file on the disk.

    A test that needs an image that is not there is skipped.
    """

    def __init__(self, shm, disk):
        self._shm, self._disk = shm, disk
        self._found = golden_manifest()
        self._digests = {}

    def entry(self, name):
        """The image's entry in the manifest."""
        if not self._found[name][1]:
            pytest.skip(f"{GOLDEN_SKIP} {name}: in neither {GOLDEN_WHERE} nor {TESTDATA}; set PCACHE_GOLDEN")
        return self._found[name][0]

    def _unpack(self, name, kind, folder):
        entry = self.entry(name)
        path = folder / f"{name}.{kind}"
        if not path.exists():
            base = entry.get(f"{kind}_patch_of")
            how = [f"--patch-from={self._unpack(base, kind, folder)}", "--long=29"] if base else ["--long=27"]
            subprocess.run(["zstd", "-q", "-d", "--sparse", "--memory=1024MB", *how,
                            str(self._found[name][1] / entry[f"{kind}_file"]), "-o", str(path)], check=True)
        return path

    def pmem(self, name):
        """The image itself: not to be changed."""
        return self._unpack(name, "pmem", self._shm)

    def backing(self, name):
        return self._unpack(name, "backing", self._disk)

    def copy(self, name, shm, disk):
        """A pair over copies of the image."""
        return Pair(copy_sparse(self.pmem(name), shm / "cache"),
                    shutil.copy(self.backing(name), disk / "backing"))

    def copy_damaged(self, case, shm, disk):
        """A pair over copies, damaged as the case says."""
        pair = self.copy(case["base"], shm, disk)
        for one in case["patches"]:
            patch(pair.cache_path, one["offset"], bytes.fromhex(one["hex"]))
        return pair

    @contextlib.contextmanager
    def untouched(self, name, patches=()):
        """A pair over the image itself, for what must not write: fails when a byte has changed.

        Some bytes may be patched meanwhile.
        """
        pair = Pair(self.pmem(name), self.backing(name))
        if name not in self._digests:
            self._digests[name] = pair.digests()
        olds = [(one["offset"], patch(pair.cache_path, one["offset"], bytes.fromhex(one["hex"])))
                for one in patches]
        try:
            yield pair
        finally:
            for offset, old in reversed(olds):
                patch(pair.cache_path, offset, old)
        assert pair.digests() == self._digests[name], "something was changed"

    def untouched_damaged(self, case):
        return self.untouched(case["base"], case["patches"])


def newest_tails(path):
    """The positions in an image's cache_ctrl, read without the library."""
    return {"dirty_tail": _newest_tail(path, 32), "key_tail": _newest_tail(path, 0)}


def _newest_tail(path, record):
    """The newest of the two replicas; one of them may never have been written."""
    found = []
    for slot in (0, 1):
        raw = peek(path, CACHE_CTRL + record + 16 * slot, 16)
        crc, seq, seg, off = struct.unpack("<IBxxxII", raw)
        if crc == crc32c(raw[4:]):
            found.append((seq, f"{seg}:{off}"))
    if len(found) == 2 and (found[0][0] - found[1][0]) % 256 > 127:
        return found[1][1]
    return found[0][1]
