#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""stress-ng's file-system stressors on a cache, round after round; beside them files are fsynced, and all is killed.

    tests/stress_rounds.py [--fs ext4|xfs|btrfs] [--rounds N] [--seed S] [--data-crc 0|1] [--gc-percent N]
                           [--backing-order strict|relaxed] [--cache-mode MODE] [--discard 0|1] [--longest SECONDS]
                           [--dir DIR] [--shm DIR]

The device and its disk are those of fs_rounds.py. A round has two parts, with the same 6 stressors; five rounds have
all of them. First stress-ng runs to its end, with --verify, and must find nothing. Then it runs again; beside it the
process of fs_rounds.py exercises its files, and a thread writes files, renames half of them, and fsyncs each file and
its directory. The server is killed with SIGKILL at a random moment, and all of these with it. The file system is
mounted again: the exercised files are judged byte by byte, each file whose fsyncs returned (xfs: before the kill) is
there with its content, and what the stressors have left can be removed. Then the file system's own checker must find
nothing.

Takes root, loop devices, FUSE and stress-ng. Prints a line a round and `N passed, M failed`; a failed round ends the
run, and prints the command that repeats it.
"""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading

import fs_rounds
from device_stack import MIB, Failed, argument_parser, good, missing, run_rounds, wait_for
from fs_rounds import FILE_SYSTEMS, data_of

# Each with the options of which one is chosen. Left out are stressors that fill the file system or its inodes, that
# call sync(), which waits for all other file systems, and that make files which cannot be removed.
STRESSORS = {
    "aio": [""], "aiol": [""], "chmod": [""], "copy-file": ["--copy-file-bytes 128m"], "dentry": ["--dentries 512"],
    "dir": ["--dir-dirs 512"], "dirdeep": ["--dirdeep-inodes 1000"], "fallocate": ["--fallocate-bytes 32m"],
    "fiemap": ["--fiemap-bytes 16m"], "filename": [""], "fpunch": [""], "fsize": [""],
    "hdd": [f"--hdd-bytes 32m --hdd-opts {opts}" for opts in ("direct", "wr-rnd,fsync", "wr-seq,rd-rnd,dsync",
                                                             "direct,wr-rnd,fdatasync")],
    "io-uring": [""], "iomix": ["--iomix-bytes 32m"], "link": ["", "--link-sync"], "mknod": [""],
    "mmap": ["--mmap-bytes 16m --mmap-file", "--mmap-bytes 16m --mmap-file --mmap-async"],
    "msync": ["--msync-bytes 16m"], "msyncmany": [""], "readahead": ["--readahead-bytes 32m"], "rename": [""],
    "revio": ["--revio-bytes 32m"], "seek": ["--seek-size 32m", "--seek-size 32m --seek-punch"],
    "sendfile": ["--sendfile-size 4m"], "symlink": ["", "--symlink-sync"], "sync-file": ["--sync-file-bytes 16m"],
    "touch": [""], "utime": ["--utime-fsync"], "xattr": [""],
}
AT_ONCE = 6
MOST_KEPT = 1000


class Stressors:
    """A running stress-ng, in a process namespace that ends with it."""

    def __init__(self, folder, log, options, seconds):
        folder.mkdir(exist_ok=True)
        self.log, self.options = log, options
        # "." because io-uring of stress-ng 0.15 fails on any file system whose path it is told as an absolute one.
        with open(log, "wb") as f:
            self.process = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--kill-child", "stress-ng", *options, "--verify", "--temp-path", ".",
                 "--timeout", str(seconds)], stdout=f, stderr=f, cwd=folder)

    def failed(self, why):
        return Failed(f"stress-ng {' '.join(self.options)}: {why}: {self.log.read_text(errors='replace')[-2000:]}")

    def judge_end(self, seconds):
        """It ends by itself, and has found nothing."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failed(f"it has not ended after {seconds} s") from None
        finally:
            self.end()
        if status != 0:
            raise self.failed(f"exit status {status}")

    def judge_running(self):
        """Up to now."""
        status, said = self.process.poll(), self.log.read_text(errors="replace")
        if status is not None:
            raise self.failed(f"it ended with {status} while the device was there")
        if "stress-ng: fail:" in said:
            raise self.failed("it has found something")

    def end(self):
        """None of its processes is left. unshare ends after the first process of the namespace, and that after all."""
        if self.process.poll() is not None:
            return
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children or [self.process.pid]:
            os.kill(int(pid), signal.SIGKILL)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            raise self.failed("its processes have not ended 120 s after SIGKILL") from None


class Keeper(threading.Thread):
    """Writes files, until it is stopped or the device is gone; `kept` has the names of those that must be there."""

    def __init__(self, folder, rng):
        super().__init__(daemon=True)
        self.folder, self.rng, self.kept, self.error = folder, rng, {}, None
        self.stopped = threading.Event()
        folder.mkdir()

    def keep(self, number, length, renamed):
        name = f"renamed-{number}" if renamed else f"{number}"
        path = self.folder / f"{number}"
        with open(path, "wb", buffering=0) as f:
            f.write(data_of(number, 0, length).tobytes())
            os.fsync(f.fileno())
        if renamed:
            path.rename(self.folder / name)
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self.kept[name] = number, length

    def run(self):
        try:
            for number in range(1, MOST_KEPT):
                if self.stopped.is_set():
                    return
                self.keep(number, self.rng.randrange(1, 1 << self.rng.randrange(9, 17)), self.rng.random() < 0.5)
        except OSError as error:
            self.error = error

    def end(self):
        self.stopped.set()
        self.join(60)
        if self.is_alive():
            raise Failed("a write or an fsync has not returned 60 s after the server was killed")

    def judge(self):
        for name, (number, length) in self.kept.items():
            try:
                got = (self.folder / name).read_bytes()
            except OSError as error:
                raise Failed(f"{name}, which was fsynced with its directory: {error}") from error
            if got != data_of(number, 0, length).tobytes():
                raise Failed(f"{name} has {len(got)} bytes, and not the {length} that were fsynced")


class Run(fs_rounds.Run):
    def __init__(self, disk, shm, seed=0, longest=3.0, **options):
        super().__init__(disk, shm, seed=seed, longest=longest, size=2048 * MIB, **options)
        self.names = random.Random(seed).sample(list(STRESSORS), len(STRESSORS))
        self.seconds = max(1, round(longest))
        self.stressors = self.keeper = None

    def next_options(self, rng):
        now, self.names = self.names[:AT_ONCE], self.names[AT_ONCE:] + self.names[:AT_ONCE]
        options = ["--seed", str(rng.randrange(1 << 32))]
        for name in now:
            options += [f"--{name}", "1", *rng.choice(STRESSORS[name]).split()]
        return options

    def start(self, options, seconds):
        self.stressors = Stressors(self.stack.mnt / "stress", self.folder / "stress-ng.log", options, seconds)

    def kill(self):
        self.stressors.judge_running()
        if self.keeper.error:
            raise Failed(f"a file could not be kept while the device was there: {self.keeper.error}")
        promised = dict(self.keeper.kept)
        super().kill()
        self.keeper.end()
        # xfs's fsync of a directory returns 0 after its log has failed (Linux 6.18, on a plain device, too): what it
        # acknowledges while the device dies counts for nothing. ext4 and btrfs are held to each fsync.
        if self.fs == "xfs":
            self.keeper.kept = promised

    def life(self, rng):
        options = self.next_options(rng)
        self.start(options, self.seconds)
        self.stressors.judge_end(self.seconds + 120)
        self.start(options, 600)
        self.keeper = Keeper(self.stack.mnt / "kept", rng)
        self.keeper.start()
        try:
            wait_for("a file is kept", lambda: self.keeper.kept or self.keeper.error)
            super().life(rng)
        finally:
            self.keeper.end()
            self.stressors.end()

    def judge(self):
        super().judge()
        self.keeper.judge()
        # On xfs an attribute that a crash has interrupted stays marked INCOMPLETE, and xfs_repair -n ends with 1 for
        # it, on a plain loop device too. It goes with its file.
        if self.fs == "xfs":
            for folder in (self.stack.mnt / "stress").glob("*xattr*"):
                good("rm", "-r", folder)

    def step(self, between=lambda: None):
        said = super().step(between)
        for folder in ("stress", "kept"):
            good("rm", "-r", self.stack.mnt / folder)
        return f"{said}, {len(self.keeper.kept)} files kept, {' '.join(self.stressors.options)}"

    def end(self):
        if self.stressors:
            self.stressors.end()
        super().end()


def missing_for(fs):
    if not shutil.which("stress-ng"):
        return "stress-ng is missing: scripts/setup"
    return missing() or fs_rounds.missing_for(fs)


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--fs", choices=FILE_SYSTEMS, default="ext4")
    args = parser.parse_args()
    why = missing_for(args.fs)
    if why:
        parser.error(why)
    return run_rounds(args, "pcache-stress", Run)


if __name__ == "__main__":
    sys.exit(main())
