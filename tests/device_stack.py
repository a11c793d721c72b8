# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system on a cache, as fs_rounds.py and db_rounds.py have it: the stack of devices, what goes round after
round over it, and the command line of that."""

import argparse
import ctypes
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("PCACHE_BUILD", ROOT / "build"))
MIB = 1 << 20
CLONE_NEWNS = 0x20000


class Failed(Exception):
    pass


def good(*command, timeout=120, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace", check=False,
                          timeout=timeout, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit status {done.returncode}: "
                     f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def wait_for(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds} s until {what}")
        time.sleep(0.01)


def is_mounted(path):
    """By the thread that asks: own_mounts() may be of a thread alone, and /proc/self shows those of the first."""
    return f" {path} " in pathlib.Path("/proc/thread-self/mounts").read_text()


@functools.cache
def own_mounts():
    """Mounts of this process and its children are its own from now on: a container that starts meanwhile would get
    copies of them, which keep the file system and its device busy for as long as it runs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    # In a chroot / need not be a mount; whoever made that has seen to it.
    subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False)


def cached(disk, shm, data_crc=0, gc_percent=70, backing_order="strict", cache_mode="writeback"):
    """nbdkit's arguments for the file `disk` behind a cache in the folder `shm`."""
    return [BUILD / "lib/nbdkit-pcache-plugin.so", f"cache_dev={shm / 'cache'}", f"backing={disk}", "emulate_pmem=1",
            "control=off", "cache_size=512m", f"data_crc={data_crc}", f"gc_percent={gc_percent}",
            f"backing_order={backing_order}", f"cache_mode={cache_mode}", "writeback_interval_ms=500"]


class Stack:
    """nbdkit's socket -> nbdfuse's file -> a loop device -> a mounted file system."""

    def __init__(self, folder, server, mnt=None):
        self.folder, self.server_arguments = folder, server
        self.nbd, self.mnt, self.socket = folder / "nbd", mnt or folder / "mnt", folder / "socket"
        own_mounts()
        for path in (self.nbd, self.mnt):
            path.mkdir(exist_ok=True)
        self.server = self.fuse = self.device = None

    def start(self, *command):
        with open(self.folder / f"{command[0]}.log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def wait_started(self, name, process, condition):
        wait_for(f"{name} has started", lambda: condition() or process.poll() is not None)
        if process.poll() is not None:
            said = (self.folder / f"{name}.log").read_text(errors="replace")
            raise Failed(f"{name} ended with {process.returncode}: {said[-2000:]}")

    def up(self):
        started = self.folder / "nbdkit.pid"  # written when it listens; the socket is there before that
        for path in (self.socket, started):
            path.unlink(missing_ok=True)
        self.server = self.start("nbdkit", "--foreground", "--pidfile", started, "--unix", self.socket,
                                 *self.server_arguments)
        self.wait_started("nbdkit", self.server, started.exists)
        self.fuse = self.start("nbdfuse", self.nbd, f"nbd+unix:///?socket={self.socket}")
        self.wait_started("nbdfuse", self.fuse, (self.nbd / "nbd").exists)
        self.device = good("losetup", "--find", "--show", "--direct-io=on", self.nbd / "nbd").strip()

    def mount(self, options):
        good("mount", "-o", options, self.device, self.mnt)

    def kill_server(self):
        self.server.kill()
        self.server.wait()

    def umount(self):
        if is_mounted(self.mnt):
            good("umount", self.mnt)

    def down(self):
        """From the top, whatever is left of it."""
        def freed(path):
            subprocess.run(["umount", path], capture_output=True, check=False)
            return not is_mounted(path)

        wait_for("the file system is unmounted", lambda: freed(self.mnt))
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], capture_output=True, check=False)
            self.device = None
        wait_for("the file of nbdfuse is free", lambda: freed(self.nbd))
        if self.server and self.server.poll() is None:
            self.server.terminate()
            self.server.wait(60)
        if self.fuse:
            self.fuse.wait(60)


class Rounds:
    """What has a stack, and a step() that goes one round over it and raises Failed."""

    def rounds(self, count, say=print):
        """Returns how many passed; ends at the first that fails."""
        number = 0
        try:
            for number in range(count):
                say(f"round {number}: ok, {self.step()}")
            return count
        except (Failed, OSError, subprocess.SubprocessError) as error:
            say(f"round {number}: FAILED: {error}")
            return number
        finally:
            self.end()

    def end(self):
        if self.stack.server:
            self.stack.down()


def missing():
    """Why it cannot be run here; nothing: it can."""
    if os.geteuid() != 0:
        return "takes root: it mounts"
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(path):
            return f"there is no {path}: this kernel or container is without it"
    for tool in ("nbdkit", "nbdfuse", "losetup"):
        if not shutil.which(tool):
            return f"{tool} is missing: scripts/setup"
    return None


def argument_parser(doc):
    """With the options that all rounds have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-crc", type=int, choices=(0, 1), default=0)
    parser.add_argument("--gc-percent", type=int, default=70)
    parser.add_argument("--backing-order", choices=("strict", "relaxed"), default="strict")
    parser.add_argument("--cache-mode", default="writeback")
    parser.add_argument("--discard", type=int, choices=(0, 1), default=1, help="mount with online discards")
    parser.add_argument("--longest", type=float, default=3.0, help="a life's seconds at most")
    parser.add_argument("--dir", default=os.environ.get("PCACHE_TEST_DIR", "/var/tmp"))
    parser.add_argument("--shm", default="/dev/shm")
    return parser


def run_rounds(args, prefix, make):
    """The exit status. make(disk, shm, **options): what has the rounds."""
    folders = [pathlib.Path(tempfile.mkdtemp(prefix=f"{prefix}-{os.getpid()}-", dir=parent))
               for parent in (args.dir, args.shm)]
    options = {name: value for name, value in vars(args).items()
               if name not in ("rounds", "dir", "shm") and value is not None}
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    print(f"{sys.argv[0]} --rounds {args.rounds} {words}", flush=True)
    passed = make(*folders, **options).rounds(args.rounds, lambda line: print(line, flush=True))
    if passed == args.rounds:
        for folder in folders:
            shutil.rmtree(folder)
        print(f"{passed} passed, 0 failed")
        return 0
    print(f"{passed} passed, 1 failed; its files are in {folders[0]} and {folders[1]}; again:\n"
          f"{sys.argv[0]} --rounds {passed + 1} {words}")
    return 1
