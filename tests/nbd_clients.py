#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What NBD's clients ask of the plugin: each does a piece of work, and nbdkit's log filter writes down its requests.

    tests/nbd_clients.py [--only WORD] [--dir DIR] [--shm DIR]

Prints the tables of engine/nbdkit/CLIENTS.md. Takes root, loop devices and FUSE; some six minutes.

A request is delayed by 2 ms for the clients alone, or no more than one would ever be in flight. "Unflushed" counts the
writes, zeros and trims without FUA that had not ended before a FLUSH began, when the client has ended; "lost" is what
of 8 MiB is not there after a SIGKILL of the server that comes then. The cache's own flush_delay_ms is a minute here.
"""

import argparse
import collections
import ctypes
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

from device_stack import BUILD, MIB, Failed, Stack, cached, good, missing, wait_for
from fs_rounds import FILE_SYSTEMS, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate, missing_for

SIZE = 64 * MIB
DATA = {0: 4 * MIB, 32 * MIB: 4 * MIB}  # of the source; from 48 MiB on 4 MiB of zeros, the rest is a hole
ZEROS = (48 * MIB, 4 * MIB)
DELAY = ["rdelay=2ms", "wdelay=2ms"]
LINE = re.compile(r"\S+ \S+ connection=(\d+) (\.\.\.)?(Read|Write|Zero|Trim|Flush|Extents) id=(\d+)(.*)")
CHANGES = ("Write", "Zero", "Trim")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # of nbdsh: the python3 that has libnbd
LIBC = ctypes.CDLL(None, use_errno=True)


class Request:
    def __init__(self, kind, connection, words, in_flight):
        fields = dict(re.findall(r"(\w+)=(\w+)", words))
        self.kind, self.connection, self.in_flight, self.flushed = kind, connection, in_flight, False
        self.off, self.count = (int(fields.get(name, "0"), 16) for name in ("offset", "count"))
        self.flags = {name for name in ("fua", "trim", "fast") if fields.get(name) == "1"}


class Log:
    """The log filter's file, read on from where it was read before."""

    def __init__(self, path):
        self.path, self.at, self.open = path, 0, {}

    def requests(self):
        text = self.path.read_text()
        found, self.at = text[self.at:], len(text)
        requests, ended = [], []  # ended: not flushed yet
        for connection, end, kind, number, words in LINE.findall(found):
            if end:
                ended += [request] if (request := self.open.pop((connection, number), None)) else []
                continue
            if kind == "Flush":
                for request in ended:
                    request.flushed = True
                ended = []
            requests.append(Request(kind, connection, words, len(self.open) + 1))
            self.open[connection, number] = requests[-1]
        return requests


def amount(count):
    for unit, name in ((1 << 30, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if count >= unit:
            return f"{float(f'{count / unit:.3g}'):g} {name}"
    return f"{count} B"


def counted(requests, kind, sized=False):
    """How many of a kind, with which flags, of how much."""
    found = [request for request in requests if request.kind == kind]
    flags = collections.Counter(flag for request in found for flag in request.flags)
    names = {"fua": "FUA", "trim": "may trim", "fast": "fast"}
    said = [f"{'all' if n == len(found) else n} {names[flag]}" for flag, n in sorted(flags.items())]
    said += [amount(sum(request.count for request in found))] if sized and found else []
    return f"{len(found)}{': ' + ', '.join(said) if said else ''}" if found else "–"


def sizes(requests):
    found = [request.count for request in requests if request.kind in CHANGES + ("Read",)]
    if not found:
        return "–"
    return " to ".join(dict.fromkeys([amount(min(found)), amount(max(found))]))


def unaligned(requests):
    """Those that are no whole blocks, by block size."""
    found = [request for request in requests if request.kind in CHANGES + ("Read",)]
    of_512, of_4096 = (sum(1 for r in found if r.off % block or r.count % block) for block in (512, 4096))
    return f"{of_512}, {of_4096}" if of_4096 else "–"


def unflushed(requests):
    return str(sum(request.kind in CHANGES and "fua" not in request.flags and not request.flushed
                   for request in requests) or "–")


def at_once(requests):
    connections = len({request.connection for request in requests})
    return f"{max(request.in_flight for request in requests)}, {connections}" if requests else "–"


class Table:
    """Rows that say the same, one after the other, become one."""

    def __init__(self, *heads):
        print("\n|", " | ".join(heads), "|\n" + "|---" * len(heads) + "|")
        self.names, self.cells = [], None

    def add(self, name, *cells):
        if cells != self.cells:
            self.end()
            self.names, self.cells = [], cells
        self.names.append(name)

    def end(self):
        if self.names:
            print("|", " | ".join(["; ".join(self.names), *self.cells]), "|", flush=True)


# ---- A server for one client ----

class Served(Stack):
    """A fresh cache and disk behind the log filter; the loop device only when up() is called."""

    def __init__(self, folder, shm, size=SIZE, delay=()):
        filters = ["--filter=log", *(["--filter=delay"] if delay else [])]
        super().__init__(folder, [*filters, *cached(folder / "disk", shm), "flush_delay_ms=60000",
                                  f"logfile={folder / 'requests'}", *delay])
        self.cache = shm / "cache"
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.cache.unlink(missing_ok=True)
        (folder / "requests").unlink(missing_ok=True)
        (folder / "disk").unlink(missing_ok=True)
        with open(folder / "disk", "wb") as f:
            f.truncate(size)

    def serve(self):
        started = self.folder / "nbdkit.pid"
        for path in (self.socket, started):
            path.unlink(missing_ok=True)
        self.server = self.start("nbdkit", "--foreground", "--threads", "64", "--pidfile", started, "--unix",
                                 self.socket, *self.server_arguments)
        self.wait_started("nbdkit", self.server, started.exists)
        self.log = Log(self.folder / "requests")

    def mount_file(self):
        self.fuse = self.start("nbdfuse", self.nbd, self.uri)
        self.wait_started("nbdfuse", self.fuse, (self.nbd / "nbd").exists)

    def lost(self, source):
        """How much of the source's blocks is not there; the server is dead."""
        whole = self.folder / "whole"
        good(BUILD / "bin/pcachectl", "export", self.cache, "--backing", self.folder / "disk", "--to", whole, "--force")
        count = 0
        with open(source, "rb") as wanted, open(whole, "rb") as got:
            while block := wanted.read(4096):
                count += 4096 * (block != got.read(4096))
        whole.unlink()
        return amount(count) if count else "–"


class Clients:
    """The clients that are given a URI; each has a server of its own."""

    HEADS = ["write", "zero", "trim", "flush", "bytes of one", "not whole 512, 4096", "at once, connections",
             "unflushed"]

    def __init__(self, folder, shm, only):
        self.folder, self.shm, self.only = folder, shm, only
        self.source = folder / "source"
        draw = random.Random(1)
        with open(self.source, "wb") as f:
            f.truncate(SIZE)
            for off, length in DATA.items():
                f.seek(off)
                f.write(draw.randbytes(length))
            f.seek(ZEROS[0])
            f.write(bytes(ZEROS[1]))

    def run(self, served, words, fuse):
        served.serve()
        try:
            if fuse:
                served.mount_file()
            names = {"URI": served.uri, "SOURCE": self.source, "FILE": self.folder / "to", "NBD": served.nbd / "nbd"}
            command = re.sub(r"\b(URI|SOURCE|FILE|NBD)\b", lambda match: f'"{names[match[1]]}"', words)
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120,
                                  cwd=self.folder, env={**os.environ, "PATH": PATH})
            return done, served.log.requests()
        finally:
            served.kill_server()
            if fuse:
                served.down()
            (self.folder / "to").unlink(missing_ok=True)

    def one(self, name, words, is_copy=False, fuse=False):
        if self.only not in name:
            return
        served = Served(self.folder, self.shm, delay=DELAY)
        done, requests = self.run(served, words, fuse)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip().splitlines() or ["nothing"]
            said = min(said, key=lambda line: ("error=" not in line, "cannot" not in line))
            said = re.sub(r"'/\S*'", "NBD", said).split(", error=")[-1].rstrip(")")
            self.table.add(f"`{name}`", f"ends with {done.returncode}: {said}", *self.cells(requests)[1:],
                           *["–"] * is_copy)
            return
        self.table.add(f"`{name}`", *self.cells(requests), *([served.lost(self.source)] if is_copy else []))

    @staticmethod
    def cells(requests):
        return (counted(requests, "Write"), counted(requests, "Zero", True), counted(requests, "Trim", True),
                counted(requests, "Flush"), sizes(requests), unaligned(requests), at_once(requests),
                unflushed(requests))

    def copies(self):
        self.table = Table("a copy to the cache", *self.HEADS, "lost")
        for options in ("", "--flush ", "--flush --destination-is-zero ", "--flush --synchronous "):
            name = f"nbdcopy {options}SOURCE URI"
            self.one(name, name, is_copy=True)
        self.one("nbdcopy --flush -- - URI, of a pipe", "cat SOURCE | nbdcopy --flush -- - URI", is_copy=True)
        for options in ("", "-n ", "-n -t none ", "-n -t writeback ", "-n -t writethrough ", "-n -S 0 ",
                        "-n -m 16 -W ", "-n --target-is-zero "):
            name = f"qemu-img convert {options}SOURCE URI"
            self.one(name, name.replace("convert", "convert -f raw -O raw"), is_copy=True)
        name = "qemu-img dd bs=1M if=SOURCE of=URI"
        self.one(name, name.replace("dd", "dd -f raw -O raw"), is_copy=True)
        for options in ("bs=1M", "bs=1M oflag=direct", "bs=1M conv=fsync", "bs=64k oflag=dsync"):
            name = f"dd {options} of=NBD"
            self.one(name, f"dd if=SOURCE of=NBD conv=notrunc {options.replace('conv=', 'conv=notrunc,')}",
                     is_copy=True, fuse=True)
        for name in ("cp SOURCE NBD", "cp --sparse=never SOURCE NBD", "cp --sparse=never SOURCE NBD; sync NBD"):
            self.one(name, name, is_copy=True, fuse=True)
        self.table.end()

    def requests(self):
        self.table = Table("a request or some", *self.HEADS)
        self.one('qemu-io -c "write 0 64k"', 'qemu-io -f raw -c "write 0 64k" URI')
        self.one('qemu-io -t unsafe -c "write 0 64k"', 'qemu-io -t unsafe -f raw -c "write 0 64k" URI')
        for command in ("write 0 64k", "write -f 0 64k", "write 1000 5000", "discard 0 64k", "discard 1000 5000",
                        "write -z 0 64k", "write -z -u 0 64k", "write -z -u -n 0 64k", "flush"):
            self.one(f'qemu-io -t none -c "{command}"', f'qemu-io -t none -f raw -c "{command}" URI')
        self.one("nbdsh: pwrite, shutdown", "nbdsh -u URI -c 'h.pwrite(bytes(65536), 0)' -c 'h.shutdown()'")
        self.one("nbdsh: pwrite with FUA", "nbdsh -u URI -c 'h.pwrite(bytes(65536), 0, nbd.CMD_FLAG_FUA)'")
        common = "fio --name=job --ioengine=nbd --uri=URI --bs=4k --size=256k --iodepth=16"
        for options in ("--rw=randwrite", "--rw=randwrite --end_fsync=1", "--rw=randwrite --fsync=1",
                        "--rw=randwrite --fdatasync=1", "--rw=randwrite --sync=1", "--rw=randtrim"):
            self.one(f"fio --ioengine=nbd {options}", f"{common} {options}")
        self.table.end()

    def reads(self):
        table = Table("what reads", "read", "extents", "bytes of one", "at once, connections")
        for name in ("nbdcopy URI FILE", "nbdcopy --no-extents URI FILE", "qemu-img convert -f raw -O raw URI FILE",
                     "qemu-img compare -f raw -F raw URI SOURCE", "qemu-img map -f raw URI", "nbdinfo --map URI",
                     "cat NBD >FILE"):
            if self.only in name:
                served = Served(self.folder, self.shm, delay=DELAY)
                subprocess.run(["cp", "--sparse=always", self.source, self.folder / "disk"], check=True)
                done, found = self.run(served, name, "NBD" in name)
                if done.returncode != 0:
                    raise Failed(f"{name}: {done.stderr}")
                changes = [request for request in found if request.kind in CHANGES + ("Flush",)]
                if changes:
                    raise Failed(f"{name}: {changes[0].kind}")
                table.add(f"`{name}`", counted(found, "Read", True), counted(found, "Extents"), sizes(found),
                          at_once(found))
        table.end()


# ---- File systems ----

def written(path, content, sync=os.fsync):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        if content:
            os.pwrite(fd, content, 0)
        sync(fd)
    finally:
        os.close(fd)


def sync_fs(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        if LIBC.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(fd)


def allocated(path, mode):
    fd = os.open(path, os.O_WRONLY)
    try:
        fallocate(fd, mode | KEEP_SIZE, MIB, MIB)
        os.fsync(fd)
    finally:
        os.close(fd)


class FileSystem:
    def __init__(self, stack, fs):
        self.stack, self.fs, self.mnt = stack, fs, stack.mnt
        self.said, self.rows, self.all = "", {}, []
        self.big = random.Random(2).randbytes(64 * MIB)

    def step(self, name, work):
        self.said = ""
        self.stack.log.requests()
        work()
        found = self.stack.log.requests()
        self.all += found
        parts = [f"{kind.lower()} {counted(found, kind, kind != 'Flush')}" for kind in (*CHANGES, "Flush")
                 if any(request.kind == kind for request in found)]
        self.rows[name] = self.said + ("; ".join(parts) or "–")

    def attach(self):
        self.stack.device = good("losetup", "--find", "--show", "--direct-io=on", self.stack.nbd / "nbd").strip()

    def detach(self):
        good("losetup", "--detach", self.stack.device)
        device = pathlib.Path("/sys/block", pathlib.Path(self.stack.device).name, "loop")
        wait_for("the loop device has ended", lambda: not device.exists())
        self.stack.device = None

    def trim(self):
        said = re.search(r"\((\d+) bytes\)", good("fstrim", "-v", self.mnt))[1]
        self.said = f"it says {amount(int(said))}; "
        time.sleep(3)  # xfs does not wait for its trims

    def remove(self):
        (self.mnt / "big").unlink()
        sync_fs(self.mnt)

    def mount_again(self, options):
        self.stack.umount()
        self.stack.mount(options)

    def main(self):
        self.attach()
        self.step("mkfs", lambda: good(*FILE_SYSTEMS[self.fs][0], self.stack.device))
        self.step("mount", lambda: self.stack.mount("nodiscard"))
        one = self.mnt / "one"
        self.step("a new file of 1 MiB, fsync", lambda: written(one, bytes(MIB)))
        self.step("fsync again, nothing changed", lambda: written(one, b""))
        self.step("4 KiB of it anew, fsync", lambda: written(one, b"a" * 4096))
        self.step("4 KiB of it anew, fdatasync", lambda: written(one, b"b" * 4096, os.fdatasync))
        self.step("4 KiB of it anew, O_DIRECT and O_DSYNC", lambda: good(
            "dd", "if=/dev/zero", f"of={one}", "bs=4096", "count=1", "oflag=direct,dsync", "conv=notrunc"))
        sync_fs(self.mnt)
        self.step("sync of it, nothing is dirty", lambda: sync_fs(self.mnt))
        self.step("nothing for 10 s (mounted `nodiscard`)", lambda: time.sleep(10))
        self.step("a new file of 64 MiB, syncfs", lambda: written(self.mnt / "big", self.big,
                                                                  lambda fd: sync_fs(self.mnt)))
        self.step("1 MiB of it punched, fsync", lambda: allocated(self.mnt / "big", PUNCH_HOLE))
        self.step("1 MiB of it zeroed, fsync", lambda: allocated(self.mnt / "big", ZERO_RANGE))
        self.step("rm of it, syncfs", self.remove)
        self.step("fstrim, 3 s", self.trim)
        self.step("fstrim again, 3 s", self.trim)
        self.discarding()
        self.by_default()
        self.step("umount", self.stack.umount)
        self.detach()

    def discarding(self):
        """With the mount option that discards what becomes free."""
        self.mount_again(FILE_SYSTEMS[self.fs][1])
        written(self.mnt / "big", self.big, lambda fd: sync_fs(self.mnt))
        self.step("`-o discard`*: 1 MiB of a file punched, fsync, 3 s", lambda: (
            allocated(self.mnt / "big", PUNCH_HOLE), time.sleep(3)))
        self.step("`-o discard`*: rm of it, syncfs", self.remove)
        self.step("40 s later", lambda: time.sleep(40))

    def by_default(self):
        """Mounted without an option: some then discard all the same, later."""
        self.mount_again("rw")
        mounts = pathlib.Path("/proc/self/mounts").read_text().splitlines()
        mounted, = [line for line in mounts if str(self.mnt) in line]
        option = re.search(r"\bdiscard[^, ]*", mounted)
        written(self.mnt / "big", self.big, lambda fd: sync_fs(self.mnt))
        self.step("no option: rm of 64 MiB, syncfs", self.remove)
        self.step("150 s later", lambda: time.sleep(150 if option else 0))
        self.rows["150 s later"] = f"it is `{option[0]}`; {self.rows['150 s later']}" if option else "it is `nodiscard`"

    def summary(self):
        fua = counted([request for request in self.all if "fua" in request.flags], "Write")
        self.rows["all of it: bytes of one; not whole 512, 4096; at once, connections; FUA"] = "; ".join(
            [sizes(self.all), unaligned(self.all), at_once(self.all), fua])


def file_systems(folder, shm, only):
    done = {}
    for fs in FILE_SYSTEMS:
        if only not in fs:
            continue
        if why := missing_for(fs):
            print(f"\nNot measured: {fs}: {why}.")
            continue
        stack = Served(folder, shm, size=1024 * MIB)
        stack.serve()
        try:
            stack.mount_file()
            file_system = FileSystem(stack, fs)
            file_system.main()
            file_system.summary()
            done[fs] = file_system.rows
        finally:
            stack.down()
    if not done:
        return
    table = Table("work", *done)
    for name in next(iter(done.values())):
        table.add(name, *(rows[name] for rows in done.values()))
    table.end()


def versions():
    print("Kernel", os.uname().release.split("-")[0], end="")
    for command, pattern in (("nbdkit --version", r"\S+$"), ("nbdcopy --version", r"(?m)nbdcopy (\S+)"),
                             ("qemu-img --version", r"version (\S+)"), ("fio --version", r"fio-(\S+)"),
                             ("mkfs.ext4 -V", r"mke2fs (\S+)"), ("mkfs.xfs -V", r"version (\S+)"),
                             ("mkfs.btrfs -V", r"v(\S+)"), ("fstrim --version", r"util-linux (\S+)")):
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        found = re.search(pattern, (done.stdout + done.stderr).strip())
        print(f", {command.split(maxsplit=1)[0]} {found[found.lastindex or 0] if found else '?'}", end="")
    print(".")
    if not os.path.exists("/dev/nbd0"):
        print("Not measured: the kernel's nbd, which this one is without.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="those clients and file systems with it in the name")
    parser.add_argument("--dir", default=os.environ.get("PCACHE_TEST_DIR", "/var/tmp"))
    parser.add_argument("--shm", default="/dev/shm")
    args = parser.parse_args()
    if why := missing():
        parser.error(why)
    folders = [pathlib.Path(tempfile.mkdtemp(prefix=f"pcache-clients-{os.getpid()}-", dir=parent))
               for parent in (args.dir, args.shm)]
    try:
        versions()
        clients = Clients(*folders, args.only)
        clients.copies()
        clients.requests()
        clients.reads()
        file_systems(*folders, args.only)
    finally:
        for folder in folders:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
