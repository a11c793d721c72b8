#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems on a cache, round after round: files are exercised, all is killed, and what was promised is there.

    tests/fs_rounds.py [--fs ext4|xfs|btrfs] [--rounds N] [--seed S] [--data-crc 0|1] [--gc-percent N]
                       [--backing-order strict|relaxed] [--cache-mode MODE] [--discard 0|1] [--longest SECONDS]
                       [--dir DIR] [--shm DIR]

The device: nbdkit's plugin, a file of it by nbdfuse, a loop device on that. A round: a process writes, truncates,
maps, punches holes, zeroes, trims the file system, fsyncs and reads back (each read against a model; a part of them
past the page cache); the server is killed with SIGKILL at a random moment, and the process with it. The file system
is mounted again, replays its journal, and each file is judged byte by byte: it holds what it held at its last fsync
that returned, or what a later request has put there. Then it is unmounted, and its own checker must find nothing.

Takes root, loop devices and FUSE. Prints a line a round and `N passed, M failed`; a failed round ends the run, and
prints the command that repeats it.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys

import numpy as np

from device_stack import MIB, Failed, Rounds, Stack, argument_parser, cached, good, missing, run_rounds, wait_for

FILES, MOST = 6, 3 * MIB  # of a file
OPS = 20000
ENTRY = struct.Struct("=QQQQQQ")  # state, file, kind, offset, length, tag
BEGUN, DONE = 1, 2
WRITE, TRUNCATE, PUNCH, ZERO, MAP, FSYNC, READ, TRIM = range(1, 9)
WEIGHTS = {WRITE: 40, TRUNCATE: 6, PUNCH: 8, ZERO: 8, MAP: 10, FSYNC: 10, READ: 17, TRIM: 1}
CHANGES = (WRITE, TRUNCATE, PUNCH, ZERO, MAP)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
FITRIM = 0xC0185879
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
FILE_SYSTEMS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], "discard", ["fsck.ext4", "-f", "-n"]),
    "xfs": (["mkfs.xfs", "-q", "-f"], "discard", ["xfs_repair", "-n"]),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], "discard=sync", ["btrfs", "check", "--readonly"]),
}


def data_of(tag, off, length):
    """What the request with this tag writes there; no byte is 0."""
    at = np.arange(off, off + length, dtype=np.uint64)
    seed = np.uint64(tag * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    mixed = (at ^ seed) * np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(40)) % np.uint64(255) + np.uint64(1)).astype(np.uint8)


def change(content, kind, off, length, tag):
    """The content of a file after a request."""
    if kind == TRUNCATE:
        new = np.zeros(off, dtype=np.uint8)
        new[:min(off, len(content))] = content[:off]
        return new
    if kind in (WRITE, MAP):
        if off + length > len(content):
            content = change(content, TRUNCATE, off + length, 0, 0)
        content[off:off + length] = data_of(tag, off, length)
        return content
    content[off:off + length] = 0  # beyond the end there is nothing: KEEP_SIZE
    return content


def read_array(path):
    return np.frombuffer(path.read_bytes(), dtype=np.uint8).copy()


def fallocate(fd, mode, off, length):
    if LIBC.fallocate(fd, mode, off, length) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


# ---- The process that is killed ----

class Exerciser:
    def __init__(self, want):
        self.rng = random.Random(want["seed"])
        self.folder = pathlib.Path(want["folder"])
        with open(want["log"], "r+b") as f:
            self.log = mmap.mmap(f.fileno(), 0)
        self.count, self.tag = 0, want["tag"]
        self.fds = [os.open(self.folder / str(n), os.O_RDWR) for n in range(FILES)]
        self.models = [read_array(self.folder / str(n)) for n in range(FILES)]

    def do(self, file, kind, off, length):
        self.tag += 1
        entry = [BEGUN, file, kind, off, length, self.tag]
        at = self.count * ENTRY.size
        self.count += 1
        ENTRY.pack_into(self.log, at, *entry)
        self.run(file, kind, off, length)
        ENTRY.pack_into(self.log, at, DONE, *entry[1:])
        if kind in CHANGES:
            self.models[file] = change(self.models[file], kind, off, length, self.tag)

    def run(self, file, kind, off, length):
        fd = self.fds[file]
        if kind == WRITE:
            data = data_of(self.tag, off, length).tobytes()
            assert os.pwrite(fd, data, off) == length
        elif kind == TRUNCATE:
            os.ftruncate(fd, off)
        elif kind == PUNCH:
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, off, length)
        elif kind == ZERO:
            fallocate(fd, ZERO_RANGE | KEEP_SIZE, off, length)
        elif kind == MAP:
            start = off // mmap.PAGESIZE * mmap.PAGESIZE
            with mmap.mmap(fd, off + length - start, offset=start) as view:
                view[off - start:] = data_of(self.tag, off, length).tobytes()
        elif kind == FSYNC:
            os.fsync(fd)
        elif kind == TRIM:
            folder = os.open(self.folder, os.O_RDONLY)
            fcntl.ioctl(folder, FITRIM, bytearray(struct.pack("=QQQ", 0, 1 << 62, 0)))
            os.close(folder)
        else:
            if length:  # past the page cache
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            got = os.pread(fd, 2 * MOST, 0)
            if got != self.models[file].tobytes():
                print(f"file {file} reads otherwise than it was written, {len(got)} bytes", file=sys.stderr)
                os._exit(3)

    def step(self):
        rng = self.rng
        file = rng.randrange(FILES)
        kind, = rng.choices(list(WEIGHTS), WEIGHTS.values())
        size = len(self.models[file])
        length = rng.choice([1, 511, 4096, 10000, 65536, 300000])
        if kind == WRITE:
            off = rng.randrange(0, MOST - length)
        elif kind == TRUNCATE:
            off, length = rng.randrange(0, MOST), 0
        elif kind == MAP:
            if size <= length:
                return
            off = rng.randrange(0, size - length)
        elif kind in (PUNCH, ZERO):
            if size == 0:
                return
            off = rng.randrange(0, size)
            length = min(length, size - off)
        else:
            off = length = 0
        if kind == READ and rng.random() < 0.5:
            self.do(file, FSYNC, 0, 0)
            length = 1
        self.do(file, kind, off, length)

    def main(self):
        try:
            while self.count < OPS - 2:
                self.step()
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EROFS, errno.ENOTCONN, errno.ESHUTDOWN, errno.EUCLEAN):
                raise
            os._exit(4)  # the device is gone: told by the parent from what happens too early


# ---- The judge ----

def read_log(path):
    raw = path.read_bytes()
    for at in range(0, len(raw), ENTRY.size):
        entry = ENTRY.unpack_from(raw, at)
        if entry[0] == 0:
            return
        yield entry


class Promise:
    """What a file must hold: what it held at its last fsync, or what later requests have put there."""

    def __init__(self, content):
        self.content, self.later = content, []

    def note(self, state, kind, off, length, tag):
        if kind == FSYNC and state == DONE:
            for request in self.later:
                self.content = change(self.content, *request)
            self.later = []
        elif kind in CHANGES:
            self.later.append((kind, off, length, tag))

    def judge(self, name, got):
        sizes, content = [len(self.content)], self.content
        fits = np.zeros(len(got), dtype=bool)

        def allow(content):
            n = min(len(got), len(content))
            fits[:n] |= got[:n] == content[:n]

        allow(content)
        for kind, off, length, tag in self.later:
            if kind in (WRITE, MAP):
                end = min(off + length, len(got))
                if end > off:
                    fits[off:end] |= got[off:end] == data_of(tag, off, end - off)
                sizes.append(max(sizes[-1], off + length))
            elif kind == TRUNCATE:
                sizes.append(off)
            # Zeros: what is made so, what is cut and grown again, what lies behind an earlier end. There ext4 may
            # know the new size before the data is written, as on a plain disk.
            zeros = {PUNCH: (off, off + length), ZERO: (off, off + length), TRUNCATE: (min(off, *sizes), len(got)),
                     WRITE: (min(sizes), off + length), MAP: (0, 0)}[kind]
            if zeros[1] > zeros[0]:
                fits[zeros[0]:zeros[1]] |= got[zeros[0]:zeros[1]] == 0
        if not min(sizes) <= len(got) <= max(sizes):
            raise Failed(f"file {name} has {len(got)} bytes, expected {min(sizes)} to {max(sizes)}")
        if not fits.all():
            at = int(np.argmin(fits))
            raise Failed(f"file {name}: byte {at} is {got[at]}: it did not hold that at its last fsync, and none of "
                         f"the {len(self.later)} requests since has put it there; {int((~fits).sum())} such bytes")


class Run(Rounds):
    def __init__(self, disk, shm, fs="ext4", seed=0, data_crc=0, gc_percent=70, backing_order="strict", discard=1,
                 longest=3.0, size=1024 * MIB, cache_mode="writeback"):
        self.folder, self.log, self.seed, self.longest, self.fs = disk, shm / "log", seed, longest, fs
        self.mkfs, discards, self.check = FILE_SYSTEMS[fs]
        self.mount_options = discards if discard else "rw"
        self.round, self.tag = 0, 0
        self.promises = None
        with open(disk / "disk", "wb") as f:
            f.truncate(size)
        self.stack = Stack(disk, cached(disk / "disk", shm, data_crc, gc_percent, backing_order, cache_mode))

    def files(self):
        return [self.stack.mnt / str(n) for n in range(FILES)]

    def contents(self):
        return [read_array(path) for path in self.files()]

    def begin(self):
        self.stack.up()
        good(*self.mkfs, self.stack.device)
        self.stack.mount(self.mount_options)
        for path in self.files():
            path.touch()
        os.sync()
        self.promises = [Promise(content) for content in self.contents()]

    def kill(self):
        self.stack.kill_server()

    def judge(self):
        """Of what is mounted again."""
        for n, (promise, content) in enumerate(zip(self.promises, self.contents())):
            promise.judge(n, content)

    def life(self, rng):
        with open(self.log, "wb") as f:
            f.truncate(OPS * ENTRY.size)
        want = {"seed": rng.random(), "folder": str(self.stack.mnt), "log": str(self.log), "tag": self.tag}
        child = subprocess.Popen([sys.executable, "-B", __file__, "--child", json.dumps(want)], stderr=subprocess.PIPE)
        try:
            wait_for("the process writes", lambda: child.poll() is not None or any(True for _ in read_log(self.log)))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(rng.uniform(0, self.longest))
            early = child.poll()
            self.kill()
        finally:
            child.kill()
            said = child.communicate(timeout=60)[1].decode()
        if early not in (None, 0):
            raise Failed(f"the process ended with {early} while the device was there: {said}")

    def step(self, between=lambda: None):
        """One round; returns a line about it, raises Failed. `between`: called when all is down."""
        rng = random.Random(f"{self.seed} {self.round}")
        if self.promises is None:
            self.begin()
        self.life(rng)
        entries = list(read_log(self.log))
        for state, file, kind, off, length, tag in entries:
            self.promises[file].note(state, kind, off, length, tag)
            self.tag = max(self.tag, tag)
        self.stack.down()
        between()
        self.stack.up()
        self.stack.mount(self.mount_options)
        self.judge()
        self.stack.umount()
        good(*self.check, self.stack.device)
        self.stack.mount(self.mount_options)
        self.promises = [Promise(content) for content in self.contents()]
        self.round += 1
        kinds = [entry[2] for entry in entries]
        return f"{len(entries)} requests, {kinds.count(FSYNC)} fsyncs, {kinds.count(TRIM)} trims"


def missing_for(fs):
    for command in (FILE_SYSTEMS[fs][0], FILE_SYSTEMS[fs][2]):
        if not shutil.which(command[0]):
            return f"{command[0]} is missing: scripts/setup"
    if f"\t{fs}\n" not in pathlib.Path("/proc/filesystems").read_text():
        if shutil.which("modprobe"):
            subprocess.run(["modprobe", fs], capture_output=True, check=False)
    if f"\t{fs}\n" not in pathlib.Path("/proc/filesystems").read_text():
        return f"this kernel is without {fs}"
    return None


def main():
    if sys.argv[1:2] == ["--child"]:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return Exerciser(json.loads(sys.argv[2])).main()
    parser = argument_parser(__doc__)
    parser.add_argument("--fs", choices=FILE_SYSTEMS, default="ext4")
    args = parser.parse_args()
    why = missing() or missing_for(args.fs)
    if why:
        parser.error(why)
    return run_rounds(args, "pcache-fs", Run)


if __name__ == "__main__":
    sys.exit(main())
