#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How many transactions a second pgbench has of PostgreSQL on ext4, on a cache and on what it is to be compared with.

    tests/db_tps.py [--rounds N] [--seconds S] [--clients N] [--scale N] [--dir DIR] [--shm DIR]

The devices: a loop device on a file in DIR; the same file by nbdkit's file plugin and nbdfuse; by nbdkit's plugin with
a cache in SHM; a loop device on a file in SHM. A round takes each in turn, with a new file system and database;
PostgreSQL has its own defaults (fsync, full_page_writes) and data checksums. Prints median and range of each.

Takes root, loop devices, FUSE, and PostgreSQL's user.
"""

import argparse
import os
import pathlib
import re
import shutil
import statistics
import sys
import tempfile

from databases import Postgresql, missing_for
from device_stack import MIB, Stack, cached, good, missing, own_mounts

SIZE = 4096 * MIB


class Plain(Stack):
    """A loop device on a file, and nothing between."""

    def __init__(self, path, mnt):
        own_mounts()
        self.path, self.mnt, self.device = path, mnt, None

    def up(self):
        self.device = good("losetup", "--find", "--show", "--direct-io=on", self.path).strip()

    def down(self):
        self.umount()
        if self.device:
            good("losetup", "--detach", self.device)


def stack_of(device, disk, shm, mnt):
    path = (shm if device == "loop in SHM" else disk) / "disk"
    with open(path, "wb") as f:
        f.truncate(SIZE)
    if device.startswith("loop"):
        return Plain(path, mnt)
    return Stack(disk, cached(path, shm) if device == "pcache" else ["file", path], mnt)


def measured(device, folders, args):
    """Transactions a second of one device, once."""
    disk, shm, place = folders
    mnt = place / "mnt"
    mnt.mkdir(exist_ok=True)
    stack = stack_of(device, disk, shm, mnt)
    database = Postgresql(mnt, place / "sockets", disk / "postgresql.log", args.scale, busy=False)
    try:
        stack.up()
        good("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", stack.device)
        stack.mount("discard")
        database.create()
        os.sync()
        database.start()
        database.wait_ready()
        said = good(*database.client_of("pgbench", "-n", "-c", args.clients, "-j", "2", "-T", args.seconds, "postgres"),
                    timeout=args.seconds + 60)
        database.stop()
        return float(re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)[1])
    finally:
        database.kill()
        stack.down()
        for path in (disk / "disk", shm / "disk", shm / "cache"):
            path.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--scale", type=int, default=10)
    parser.add_argument("--dir", default=os.environ.get("PCACHE_TEST_DIR", "/var/tmp"))
    parser.add_argument("--shm", default="/dev/shm")
    args = parser.parse_args()
    why = missing() or missing_for("postgresql")
    if why:
        parser.error(why)
    folders = [pathlib.Path(tempfile.mkdtemp(prefix=f"pcache-tps-{os.getpid()}-", dir=parent))
               for parent in (args.dir, args.shm, "/run")]
    folders[2].chmod(0o711)
    tps = {name: [] for name in ("loop in DIR", "nbdkit file", "pcache", "loop in SHM")}
    for number in range(args.rounds):
        for device, values in tps.items():
            values.append(measured(device, folders, args))
            print(f"round {number}: {device}: {values[-1]:.0f}; load {os.getloadavg()[0]:.1f}", flush=True)
    for folder in folders:
        shutil.rmtree(folder)
    print(f"{'':15}median    range")
    for device, values in tps.items():
        print(f"{device:15}{statistics.median(values):6.0f}    {min(values):.0f} to {max(values):.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
