#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Databases on a cache, round after round: transactions are committed, all is killed, and what was promised is there.

    tests/db_rounds.py [--db sqlite|postgresql] [--journal delete|wal] [--synchronous full|extra] [--scale N]
                       [--device pcache|file|volatile] [--rounds N] [--seed S] [--data-crc 0|1] [--gc-percent N]
                       [--backing-order strict|relaxed] [--discard 0|1] [--longest SECONDS] [--dir DIR] [--shm DIR]

The device: nbdkit's plugin, a file of it by nbdfuse, a loop device on that, ext4 on it. A round: SQLite, or PostgreSQL
with pgbench's clients and one of our own, commits; the server of the device is killed with SIGKILL at a random moment,
and the database with it; in a third of the rounds once more while the database recovers. Then all is there again, the
database recovers, and is judged: each commit that was acknowledged is there, and at most what was in flight besides;
sums and contents are right; the database's own checkers (integrity_check; pg_amcheck, pg_checksums) and ext4's find
nothing. The database goes from round to round.

--device file has nbdkit's file in place of the cache, and volatile one whose kill takes all that was not flushed: what
fails with these is the judge's fault, or the database's. `--journal delete --synchronous full` fails with any device:
SQLite does not sync the folder after it has deleted the journal, and says so; the last commit may be rolled back.

Takes root, loop devices and FUSE, and for PostgreSQL its user. Prints a line a round and `N passed, M failed`; a
failed round ends the run, and prints the command that repeats it.
"""

import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

from databases import Postgresql, Sqlite, missing_for
from device_stack import MIB, Failed, Rounds, Stack, argument_parser, cached, good, is_mounted, missing, run_rounds

DEVICES = ("pcache", "file", "volatile")


def server_of(device, disk, shm, **options):
    """nbdkit's arguments."""
    if device == "pcache":
        return cached(disk, shm, **options)
    return {"file": ["file", disk], "volatile": ["--filter=cache", "file", disk, "cache=writeback"]}[device]


class Run(Rounds):
    def __init__(self, disk, shm, db="sqlite", journal="delete", synchronous=None, scale=5, device="pcache", seed=0,
                 discard=1, longest=3.0, size=1024 * MIB, **options):
        self.seed, self.longest, self.round, self.begun = seed, longest, 0, False
        self.mount_options = "discard" if discard else "rw"
        with open(disk / "disk", "wb") as f:
            f.truncate(size)
        # A folder that PostgreSQL's user can get to.
        self.place = pathlib.Path(tempfile.mkdtemp(prefix=f"pcache-db-{os.getpid()}-", dir="/run"))
        self.place.chmod(0o711)
        self.stack = Stack(disk, server_of(device, disk / "disk", shm, **options), self.place / "mnt")
        if db == "sqlite":
            self.database = Sqlite(self.stack.mnt, shm, journal, synchronous)
        else:
            self.database = Postgresql(self.stack.mnt, self.place / "sockets", disk / "postgresql.log", scale)

    def begin(self):
        self.stack.up()
        good("mkfs.ext4", "-q", "-F", self.stack.device)
        self.stack.mount(self.mount_options)
        self.database.create()
        os.sync()
        self.begun = True

    def kill(self, seconds):
        """Everything, after so many seconds, in which the database must not end by itself."""
        try:
            deadline = time.monotonic() + seconds
            while not (early := self.database.ended()) and time.monotonic() < deadline:
                time.sleep(min(0.01, max(0, deadline - time.monotonic())))
            self.stack.kill_server()
        finally:
            self.database.kill()
        if early:
            raise Failed(f"while the device was there, {early}")

    def again(self, between=lambda: None):
        self.stack.down()
        between()
        self.stack.up()
        self.stack.mount(self.mount_options)

    def step(self, between=lambda: None):
        """One round; returns a line about it, raises Failed. `between`: called when all is down."""
        rng = random.Random(f"{self.seed} {self.round}")
        if not self.begun:
            self.begin()
        stumbles = rng.random() < 1 / 3
        self.database.begin(rng)
        self.kill(rng.uniform(0, self.longest))
        self.again(between)
        if stumbles:
            self.kill(self.database.stumble(rng))
            self.again()
        said = self.database.judge()
        self.stack.umount()
        good("fsck.ext4", "-f", "-n", self.stack.device)
        self.stack.mount(self.mount_options)
        self.round += 1
        return said + (", killed while it recovered, too" if stumbles else "")

    def end(self):
        try:
            self.database.kill()
        finally:
            super().end()
            if not is_mounted(self.stack.mnt):
                shutil.rmtree(self.place, ignore_errors=True)


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--db", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--journal", choices=tuple(Sqlite.SYNCHRONOUS), default="delete", help="SQLite's")
    parser.add_argument("--synchronous", choices=("full", "extra"), help="default: extra with delete, full with wal")
    parser.add_argument("--scale", type=int, default=5, help="pgbench's: 100000 accounts each")
    parser.add_argument("--device", choices=DEVICES, default="pcache")
    args = parser.parse_args()
    why = missing() or missing_for(args.db)
    if why:
        parser.error(why)
    return run_rounds(args, "pcache-db", Run)


if __name__ == "__main__":
    sys.exit(main())
