# SPDX-License-Identifier: GPL-2.0-or-later
"""fio is the front, and is killed at random, or pcached is, or both. fio's own verification is the judge: what fio had
been acknowledged is read back by another fio, with the seed of the killed one, and in the end from the disk alone.

A round writes 4 KiB blocks in random order, each once, into a region of its own, one after the other, durably (sync=1),
or with a flush after each eighth. The order follows from the seed, so the first N that were acknowledged are the first
N that fio makes again (verify_only, io_size). How many there were the front's control socket tells until the kill.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time

import pytest

from fio import Fio, environment
from measure.libpcache import MIB
from support import PAGE, Pair
from test_two_sides import sides  # noqa: F401  pylint: disable=unused-import

REGION, REGIONS = 16 * MIB, 4
ROUNDS = int(os.environ.get("PCACHE_TWO_SIDES_ROUNDS", "4"))
HOW = {"sync": ({"sync": 1}, lambda requests: requests["fua_writes"]),
       "fsync": ({"fsync": 8}, lambda requests: 8 * requests["flushes"])}


class Part:
    """What one round has written: of which seed, how, and so many blocks at least."""

    def __init__(self, number, how):
        self.region, self.seed, self.how, self.acknowledged = number % REGIONS, number + 1, how, 0

    def job(self, **more):
        return {"name": f"seed-{self.seed}", "rw": "randwrite", "bs": PAGE, "offset": self.region * REGION,
                "size": REGION, "iodepth": 1, "randrepeat": 0, "randseed": self.seed, "verify": "crc32c",
                "verify_fatal": 1, "verify_state_save": 0, **HOW[self.how][0], **more}

    def again(self, **more):
        return self.job(verify_only=True, io_size=self.acknowledged * PAGE, **more)


def requests_of(client):
    """The front's counters; None: it has ended."""
    text = b""
    try:
        client.sendall(b"status\n")
        while b"\n" not in text or len(text) < text.index(b"\n") + 1 + int(text.split(None, 2)[1]):
            got = client.recv(1 << 16)
            if not got:
                return None
            text += got
    except OSError:
        return None
    return json.loads(text.partition(b"\n")[2])["requests"]


class Front:
    """fio, which writes a part until it is killed."""

    def __init__(self, fio, part, folder):
        self.part, self.control = part, folder / "front.sock"
        self.control.unlink(missing_ok=True)
        command = fio.command(part.job(do_verify=0, rate_iops=4000), role="front", control=self.control,
                              writeback_interval_ms=5, stats_file=None)
        self.process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def connect(self, client):
        """False: it has ended before it was attached."""
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                client.connect(str(self.control))
                return True
            time.sleep(0.005)
        return False

    def watch(self, seconds):
        """Notes what is acknowledged, until so long after the first that was."""
        end = None
        with socket.socket(socket.AF_UNIX) as client:
            if not self.connect(client):
                return
            while end is None or time.monotonic() < end:
                requests = requests_of(client)
                if requests is None:
                    return
                self.part.acknowledged = HOW[self.part.how][1](requests)
                if end is None and self.part.acknowledged:
                    end = time.monotonic() + seconds

    def kill(self):
        self.process.kill()
        said = self.process.communicate()
        assert self.process.returncode in (0, -signal.SIGKILL), said


def verify(fio, part, **options):
    """By a fio for each: the order follows from the job's number in it, too."""
    if not part.acknowledged:
        return
    done = fio.start(part.again(), stats_file=None, **options)
    said = f"{part.how}, {part.acknowledged} blocks of seed {part.seed}: {done.stderr}"
    assert done.returncode == 0 and "verify" not in done.stderr, said
    job, = json.loads(done.stdout)["jobs"]
    assert job["error"] == 0 and job["read"]["io_bytes"] == part.acknowledged * PAGE, said


@pytest.mark.hang_seconds(1800)
def test_either_side_is_killed_over_and_over_under_fio_verify(sides, disk, tmp_path):
    fio = Fio(Pair(sides.cache_path, sides.server.fio_name), disk)
    draw, parts, acknowledged = random.Random(7), {}, []
    sides.start_backend()
    for number in range(ROUNDS):
        part = Part(number, draw.choice(list(HOW)))
        front = Front(fio, part, tmp_path)
        try:
            front.watch(draw.uniform(0.05, 0.9))
        finally:
            for victim in draw.choice([["front"], ["backend", "front"], ["front", "backend"],
                                       ["backend", "again", "front"]]):
                if victim == "front":
                    front.kill()
                elif victim == "again":
                    sides.start_backend()
                    front.watch(draw.uniform(0.05, 0.3))
                else:
                    sides.stop_backend(signal.SIGKILL)
        if not sides.backend and draw.random() < 0.7:
            sides.start_backend()
        parts[part.region] = part
        acknowledged.append(part.acknowledged)
        for known in parts.values():
            verify(fio, known, role="front")
        if not sides.backend:
            sides.start_backend()
    assert all(acknowledged), acknowledged
    sides.stop_backend()
    sides.write_back_all(seconds=600)  # with sync=1 a flush of the disk for each block that is left
    sides.check()
    for known in parts.values():
        verify(fio, known, ioengine="psync", filename=sides.disk, cache_dev=None, emulate_pmem=None, prefault=None)


def test_fio_refuses_what_is_not_there(sides, disk):
    """A block less, and what another seed has written: so the rounds can fail."""
    pair = Pair(sides.cache_path, sides.server.fio_name)
    fio = Fio(pair, disk)
    fio.run(Part(0, "sync").job(do_verify=0, io_size=64 * PAGE), role="front")
    pair.used = False  # its backing device is an address as fio writes it: sides.check() knows the disk
    for missing, seed, refused in ((0, 1, False), (1, 1, True), (0, 2, True)):
        part = Part(0, "sync")
        part.seed, part.acknowledged = seed, 64 + missing
        done = fio.start(part.again(), role="front")
        assert (done.returncode != 0) == refused, (missing, seed, done.stderr[-600:])
        assert ("verify" in done.stderr) == refused, done.stderr
    sides.check()
