#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Records what ext4 asks of its device while files are written, and which of them must be there from when on.

    tests/ext4_recording.py --to FILE [--steps N] [--seed S]

The device: recorder.c (nbdkit), a file of it by nbdfuse, a loop device on that, so root, loop devices and FUSE are
needed; and zstd, where the name ends in .zst. tests/testdata/ext4.recording.zst is one with the defaults, for machines
that have none of these.

A recording is the 8 bytes "pcrecord", the device's size in bytes (64 bits), and records to the end, all little-endian:

    kind 8 bits | flags 8 | zero 16 | length 32 | offset 64, in bytes | of WRITE and MARK: so many bytes as `length`
    kind: 1 WRITE, 2 FLUSH, 3 TRIM, 4 ZERO, 5 READ, 6 MARK; flags: 1 FUA

The order is the one in which the device did the requests; each was answered behind its record. A trim reads as zeros.
The file system has FS_BYTES from 0 on; behind it is nothing.

A MARK is JSON, {path: rule}, and changes what is promised from there on (`holds()`). It stands before the first system
call that may make the old rule untrue, and behind the fsync that has made the new one true. The first is empty: there
is a file system, and it is mounted.
"""

import argparse
import contextlib
import ctypes
import functools
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

from device_stack import MIB, Failed, Stack, good, missing, wait_for

MAGIC = b"pcrecord"
DEVICE_BYTES, FS_BYTES = 12 * MIB, 8 * MIB  # of which the prover writes to the rest
HEADER, RECORD = struct.Struct("<8sQ"), struct.Struct("<BBHIQ")
WRITE, FLUSH, TRIM, ZERO, READ, MARK = range(1, 7)
HAVE_DATA = (WRITE, MARK)
SECTOR, BLOCK = 512, 1024
STEPS, SEED = 260, 1
FILES = ("a", "b", "c", "d", "e", "f", "g", "h")
DIRECTORIES = ("one", "two", "three")
KEEP_SIZE = 1
SIZES = (1, 700, 4096, 10000, 40000, 120000)
MKFS = ["mkfs.ext4", "-q", "-F", "-b", str(BLOCK), "-N", "256", "-m", "0", "-J", "size=1", "-O", "^metadata_csum_seed",
        "-E", "lazy_itable_init=0,lazy_journal_init=0"]
# Of the two lives of the file system. Where blocks are allocated with the write, and not when it is written out, only
# data=ordered keeps a commit behind the data that it names.
MOUNTS = ("data=ordered,discard,commit=1", "data=ordered,discard,commit=1,nodelalloc")
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]


# ---- What is promised ----

@functools.lru_cache(maxsize=256)
def bytes_of(tag, length):
    """A content. That of the same tag and less length is the beginning of it; each 16 bytes name tag and place."""
    return b"".join(b"%06x %08x\n" % (tag, at) for at in range(-(-length // 16)))[:length]


def holds(rule, got):
    """Whether a file may hold these bytes; None: it is not there. A content is [tag, length].

    {"is": [...]}: one of these contents; null: it is not there
    {"mixed": [a, b]}: of the length of both, each sector as in one of the two
    {"grows": [least, most]}: `least` and a part of what `most` has behind it; null: it need not be there. A sector of
        that part may be zeros: ext4 may commit a size before the data, but not with blocks that have others' data
    """
    (kind, contents), = rule.items()
    if kind == "is":
        return any(got == (content and bytes_of(*content)) for content in contents)
    if got is None:
        return contents[0] is None
    least, most = (content or [0, 0] for content in contents)
    if kind == "mixed":
        return len(got) == least[1] and each_is_of(got, bytes_of(*least), bytes_of(*most))
    grown = slice(least[1], None)
    return (least[1] <= len(got) <= most[1] and got[:least[1]] == bytes_of(*least) and
            each_is_of(got[grown], bytes_of(*most)[grown], bytes(len(got)), start=least[1]))


def each_is_of(got, a, b, start=0):
    """Whether each sector is as in one of the two. `start`: of `got`, in the file."""
    cuts = [0, *range(-start % SECTOR or SECTOR, len(got), SECTOR), len(got)]
    return all(got[at:to] in (a[at:to], b[at:to]) for at, to in zip(cuts, cuts[1:]))


# ---- The file ----

def read_recording(path):
    """Its records: (kind, flags, off, len, data)."""
    raw = path.read_bytes() if path.suffix != ".zst" else subprocess.run(
        ["zstd", "-q", "-d", "-c", path], check=True, stdout=subprocess.PIPE).stdout
    magic, size = HEADER.unpack_from(raw)
    if magic != MAGIC or size != DEVICE_BYTES:
        raise Failed(f"{path}: no recording of {DEVICE_BYTES} bytes")
    at, records = HEADER.size, []
    while at < len(raw):
        kind, flags, _zero, length, off = RECORD.unpack_from(raw, at)
        at += RECORD.size
        data = raw[at:at + length] if kind in HAVE_DATA else b""
        at += len(data)
        records.append((kind, flags, off, length, data))
    return records


def promises(records):
    """[{path: rule}] as it is behind each mark."""
    rules, found = {}, []
    for kind, _flags, _off, _len, data in records:
        if kind == MARK:
            rules = rules | json.loads(data)
            found.append(rules)
    return found


def apply(image, record):
    """Does a request to the bytearray."""
    kind, _flags, off, length, data = record
    if kind == WRITE:
        image[off:off + length] = data
    elif kind in (TRIM, ZERO):
        image[off:off + length] = bytes(length)


# ---- The program that is recorded ----

class Program:
    """Changes files under `root`, and notes in the recording what must be there."""

    def __init__(self, root, recording, seed):
        self.root, self.rng, self.tag = root, random.Random(seed), 0
        self.recording = os.open(recording, os.O_WRONLY | os.O_APPEND)
        self.contents = {}  # {path: content} as it will be
        self.unsettled = {}  # {path: what has to be fsynced}
        self.parents = {name: name for name in DIRECTORIES}  # each directory's name now

    def close(self):
        os.close(self.recording)

    def mark(self, rules):
        data = json.dumps(rules).encode()
        assert os.write(self.recording, RECORD.pack(MARK, 0, 0, len(data), 0) + data) == RECORD.size + len(data)

    def fsync(self, path):
        fd = os.open(self.root / path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def settle(self, path):
        """What was done to it last is on the device."""
        if path in self.unsettled:
            synced, rules = self.unsettled.pop(path)
            self.fsync(synced)
            self.mark(rules)

    def change(self, path, before, synced, after):
        self.mark(before)
        self.unsettled[path] = (synced, after)

    def new_content(self, length):
        self.tag += 1
        return [self.tag, length]

    def write(self, path, content, flags, start=0, reserve=False):
        fd = os.open(self.root / path, os.O_WRONLY | flags, 0o600)
        data = bytes_of(*content)
        if reserve and LIBC.fallocate(fd, KEEP_SIZE, 0, len(data)) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
        step = self.rng.choice((1000, 8192, 1 << 20))
        for at in range(start, len(data), step):
            os.pwrite(fd, data[at:at + step], at)
        os.close(fd)

    def create(self, path):
        content = self.new_content(self.rng.choice(SIZES))
        self.change(path, {path: {"grows": [None, content]}}, path, {path: {"is": [content]}})
        self.write(path, content, os.O_CREAT | os.O_EXCL, reserve=self.rng.random() < 0.3)
        self.contents[path] = content

    def append(self, path):
        old = self.contents[path]
        content = [old[0], old[1] + self.rng.choice(SIZES)]
        self.change(path, {path: {"grows": [old, content]}}, path, {path: {"is": [content]}})
        self.write(path, content, 0, start=old[1])
        self.contents[path] = content

    def overwrite(self, path):
        old = self.contents[path]
        content = self.new_content(old[1])
        self.change(path, {path: {"mixed": [old, content]}}, path, {path: {"is": [content]}})
        self.write(path, content, 0)
        self.contents[path] = content

    def cut(self, path):
        """To whole pages: of a page that is cut, the rest may be zeroed on the device before the size is less."""
        old = self.contents[path]
        content = [old[0], self.rng.randrange(0, old[1], 4096)]
        self.change(path, {path: {"is": [old, content]}}, path, {path: {"is": [content]}})
        os.truncate(self.root / path, content[1])
        self.contents[path] = content

    def replace(self, path):
        """As editors do: a new file, fsynced, is renamed to the old name."""
        old, content = self.contents[path], self.new_content(self.rng.choice(SIZES))
        new = path + ".new"
        self.mark({new: {"grows": [None, content]}})
        self.write(new, content, os.O_CREAT | os.O_EXCL)
        self.fsync(new)
        self.change(path, {new: {"is": [content, None]}, path: {"is": [old, content]}}, os.path.dirname(path),
                    {new: {"is": [None]}, path: {"is": [content]}})
        os.rename(self.root / new, self.root / path)
        self.contents[path] = content

    def unlink(self, path):
        self.change(path, {path: {"is": [self.contents.pop(path), None]}}, os.path.dirname(path),
                    {path: {"is": [None]}})
        os.unlink(self.root / path)

    def move(self, directory):
        """Renames a directory that has files."""
        old = self.parents[directory]
        new = f"{directory}.{self.tag}" if old == directory else directory
        for path in [path for path in self.unsettled if os.path.dirname(path) == old]:
            self.settle(path)
        moved = {path: path.replace(old, new, 1) for path in self.contents if os.path.dirname(path) == old}
        before, after = {}, {}
        for path, to in moved.items():
            content = self.contents.pop(path)
            self.contents[to] = content
            before |= {path: {"is": [content, None]}, to: {"is": [None, content]}}
            after |= {path: {"is": [None]}, to: {"is": [content]}}
        self.mark(before)
        os.rename(self.root / old, self.root / new)
        self.fsync(".")
        self.mark(after)
        self.parents[directory] = new

    def read(self, path):
        """Past the page cache, so it reaches the device."""
        fd = os.open(self.root / path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        got = os.read(fd, 1 << 20)
        os.close(fd)
        if got != bytes_of(*self.contents[path]):
            raise Failed(f"{path} reads otherwise than it was written")

    def step(self):
        rng = self.rng
        if rng.random() < 0.04:
            return self.move(rng.choice(DIRECTORIES))
        if rng.random() < 0.06:  # what is not promised yet may be there
            fd = os.open(self.root, os.O_RDONLY)
            LIBC.syncfs(fd)
            os.close(fd)
        path = f"{self.parents[rng.choice(DIRECTORIES)]}/{rng.choice(FILES)}"
        self.settle(path)
        if path not in self.contents:
            self.create(path)
        else:
            large = self.contents[path][1] > 300000
            kinds = {self.append: 0 if large else 4, self.overwrite: 4, self.replace: 4, self.read: 2,
                     self.unlink: 3, self.cut: 3 if self.contents[path][1] else 0}
            kind, = rng.choices(list(kinds), kinds.values())
            kind(path)
        if rng.random() < 0.6:
            self.settle(path)

    def settle_all(self):
        for path in list(self.unsettled):
            self.settle(path)


# ---- The recorder ----

def missing_for_recording():
    """Why nothing can be recorded here; None: it can."""
    for tool in ("mkfs.ext4", "debugfs", "cc"):
        if not shutil.which(tool):
            return f"{tool} is missing: scripts/setup"
    return missing()


def record(to, steps=STEPS, seed=SEED, folder=None):
    """Writes the recording `to`. Raises Failed."""
    raw = folder / "recording"
    raw.write_bytes(HEADER.pack(MAGIC, DEVICE_BYTES))
    stack = Stack(folder, ["cc", pathlib.Path(__file__).with_name("recorder.c"), f"recording={raw}",
                           f"size={DEVICE_BYTES}"])
    program = None
    try:
        stack.up()
        good(*MKFS, stack.device, FS_BYTES // BLOCK)
        program = Program(stack.mnt, raw, seed)
        for options in MOUNTS:
            stack.mount(options)
            if options == MOUNTS[0]:
                for name in DIRECTORIES:
                    (stack.mnt / name).mkdir()
                os.sync()
                program.mark({})
            for _ in range(steps // len(MOUNTS)):
                program.step()
            program.settle_all()
            stack.umount()
    finally:
        with contextlib.suppress(AttributeError):
            program.close()
        stack.down()
    if to.suffix == ".zst":
        good("zstd", "-q", "-f", "--ultra", "-22", raw, "-o", to)
    else:
        shutil.copyfile(raw, to)


def journal_rounds(records, image):
    """How often what was written to the journal of the file system in the file `image` has filled it."""
    said = good("debugfs", "-R", "blocks <8>", image).split()
    blocks = {int(block) for block in said if re.fullmatch(r"\d+", block)}
    written = sum(off // BLOCK + at in blocks for kind, _flags, off, length, _data in records if kind == WRITE
                  for at in range(length // BLOCK))
    return written / len(blocks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    why = missing_for_recording()
    if why:
        parser.error(why)
    with tempfile.TemporaryDirectory(prefix="pcache-record-") as folder:
        record(args.to, args.steps, args.seed, pathlib.Path(folder))
        records = read_recording(args.to)
        image = bytearray(DEVICE_BYTES)
        for one in records:
            apply(image, one)
        whole = pathlib.Path(folder, "whole")
        whole.write_bytes(image)
        kinds = [one[0] for one in records]
        print(f"{len(kinds)} records: {kinds.count(WRITE)} writes of {sum(len(r[4]) for r in records) / MIB:.1f} MiB, "
              f"{kinds.count(FLUSH)} flushes, {kinds.count(TRIM)} trims, {kinds.count(ZERO)} zeros, "
              f"{kinds.count(READ)} reads, {kinds.count(MARK)} marks; the journal was filled "
              f"{journal_rounds(records, whole):.1f} times; {args.to.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
