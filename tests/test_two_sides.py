# SPDX-License-Identifier: GPL-2.0-or-later
"""Two sides over one pmem: a front (role=front) serves requests, pcached has the disk and writes back, a server of NBD
serves what misses. Either dies at any moment, and nothing that was acknowledged is lost."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from ctl import Ctl
from fio import Fio
from measure.libpcache import BUILD, MIB, WRITE, Cache, PcacheError, Request
from support import PAGE, Pair, file_state, make_backing, stamp, wait_until
from test_nbd_backing import Server

PCACHED = BUILD / "bin/pcached"
SIZE = 64 * MIB


class Sides:
    """The pmem, the disk, its server, and pcached; fronts are the tests'."""

    def __init__(self, cache_path, server, data_crc, *more):
        self.cache_path, self.server, self.disk, self.backend = cache_path, server, server.path, None
        options = ["--data-crc"] if data_crc else []
        Ctl().run("format", cache_path, "--force", "--backing", self.disk, *options, *more)
        server.nbdkit("--readonly")

    def start_backend(self, *options):
        self.backend = subprocess.Popen(list(map(str, [PCACHED, self.cache_path, "--backing", self.disk,
                                                       "--emulate-pmem", *options])),
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.backend.stdout.readline()
        assert "has the disk" in line, line + self.backend.stderr.read()

    def stop_backend(self, number=signal.SIGTERM):
        self.backend.send_signal(number)
        said = self.backend.communicate(timeout=60)
        assert self.backend.returncode == (0 if number == signal.SIGTERM else -number), said
        self.backend = None
        return said

    def write_back_all(self, seconds=120):
        """By a backend alone."""
        done = subprocess.run(list(map(str, [PCACHED, self.cache_path, "--backing", self.disk, "--emulate-pmem",
                                             "--once"])), capture_output=True, text=True, check=False, timeout=seconds)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def front(self, **options):
        return Cache(self.cache_path, self.server.uri, role="front", **options)

    def check(self):
        Ctl().run("check", self.cache_path, "--backing", self.disk)


@pytest.fixture(params=[0, 1], ids=["data_crc=0", "data_crc=1"])
def sides(request, tmp_path, cache_file, disk):
    path = disk / "backing"
    make_backing(path, SIZE)
    server = Server(tmp_path, path)
    # With gc_percent=0 what is written back leaves the cache, so that reads go to the disk.
    made = Sides(cache_file, server, request.param, "--gc-percent", 0 if request.param else 70)
    yield made
    if made.backend:
        made.backend.kill()
        made.backend.communicate()
    server.kill()


def write_some(cache, model, draw, count, tag):
    for number in range(count):
        off = draw.randrange(SIZE // PAGE) * PAGE
        length = min(draw.choice([512, PAGE, 16 * PAGE, 256 * PAGE]), SIZE - off)
        data = stamp(off, length, tag + number)
        cache.write(off, data)
        model[off:off + length] = data


def test_the_backend_writes_back_what_the_front_has_taken(sides):
    model = bytearray(sides.disk.read_bytes())
    draw = random.Random(1)
    sides.start_backend()
    cache = sides.front()
    write_some(cache, model, draw, 300, 1000)
    assert cache.read(0, SIZE) == model
    cache.flush()
    wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
    assert cache.read(0, SIZE) == model
    cache.close()
    sides.stop_backend()
    assert sides.disk.read_bytes() == model
    sides.check()


def test_what_is_left_is_written_back_by_the_backend_alone(sides):
    model = bytearray(sides.disk.read_bytes())
    with sides.front() as cache:
        write_some(cache, model, random.Random(2), 200, 2000)
    assert sides.disk.read_bytes() != model
    assert "wrote" in sides.write_back_all()
    assert sides.disk.read_bytes() == model
    sides.check()
    with sides.front() as cache:
        assert cache.read(0, SIZE) == model


def test_one_of_each(sides):
    """Two fronts, two backends, somebody who does it all, and readers: all are refused, and change nothing."""
    sides.start_backend()
    with sides.front() as cache:
        cache.write(0, stamp(0, PAGE, 1))
        cache.flush()
        with pytest.raises(PcacheError, match="another front"):
            sides.front()
        for options in ({}, {"readonly": 1}):
            with pytest.raises(PcacheError, match="in use"):
                Cache(sides.cache_path, sides.disk, **options)
        again = subprocess.run(list(map(str, [PCACHED, sides.cache_path, "--backing", sides.disk, "--emulate-pmem"])),
                               capture_output=True, text=True, check=False, timeout=60)
        assert again.returncode == 3 and "in use" in again.stderr and len(again.stderr.splitlines()) == 1
        assert "in use" in Ctl().refused("check", sides.cache_path)
        assert cache.read(0, PAGE) == stamp(0, PAGE, 1)


def test_a_front_is_refused_what_is_the_backends(sides, disk):
    for option, value in (("drain", 1), ("gc_percent", 50), ("cache_mode", "writethrough"), ("readonly", 1)):
        with pytest.raises(PcacheError, match="role=front"):
            sides.front(**{option: value})
    with pytest.raises(PcacheError, match="expected the address of a server"):
        Cache(sides.cache_path, sides.disk, role="front")
    with sides.front() as cache:
        with pytest.raises(PcacheError, match="ask its backend"):
            cache.drain()
        with pytest.raises(PcacheError, match="ask its backend"):
            cache.set_gc_percent(10)
    blank = disk / "blank"
    with open(blank, "wb") as f:
        f.truncate(512 * MIB)
    before = file_state(blank)
    with pytest.raises(PcacheError, match="formats nothing"):
        Cache(blank, sides.server.uri, role="front")
    refused = subprocess.run([PCACHED, blank, "--backing", sides.disk, "--emulate-pmem"], capture_output=True,
                             text=True, check=False)
    assert refused.returncode == 3 and "blank" in refused.stderr
    assert file_state(blank) == before


def test_a_full_cache_waits_for_the_backend_and_goes_on(cache_file, tmp_path, disk):
    """Eight times what the cache holds, with the backend away in the middle."""
    path = disk / "backing"
    with open(path, "wb") as f:
        f.truncate(2048 * MIB)
    server = Server(tmp_path, path)
    sides = Sides(cache_file, server, 0)
    try:
        sides.start_backend()
        with sides.front() as cache:
            data = stamp(0, MIB, 1)
            for number in range(1024):
                cache.write(number * MIB, data)
            sides.stop_backend()
            queue = cache.new_queue(64)
            requests = [Request(WRITE, (1024 + number) * MIB, data) for number in range(600)]
            waiting = None
            for request in requests:
                if not queue.submit(request) and not queue.reap(1, 1, 2_000_000_000):
                    waiting = request  # and not only let in at the pace of writeback
                    break
            assert waiting, "600 MiB went into a cache of 512 without a backend"
            assert cache.read(1023 * MIB, MIB) == data
            sides.start_backend()
            assert queue.reap(1, 1, -1) == [waiting] and waiting.result == 0
            for number in range(1100, 2048):
                cache.write(number * MIB, data)
            assert cache.status["events"]["waits_on_full"] > 0
        sides.stop_backend()
        sides.write_back_all()
        with open(path, "rb") as f:
            for number in range(1024):
                assert f.read(MIB) == data, number
        sides.check()
    finally:
        if sides.backend:
            sides.backend.kill()
        server.kill()


def test_fio_verifies_by_a_front(sides, disk):
    sides.start_backend()
    pair = Pair(sides.cache_path, sides.server.fio_name)
    jobs = Fio(pair, disk).run(rw="randwrite", bsrange="4k-128k", size="64m", loops=4, verify="crc32c", verify_fatal=1,
                               iodepth=16, thread=1, fsync=32, role="front", verify_state_save=0)
    assert jobs[0]["read"]["io_bytes"] == jobs[0]["write"]["io_bytes"] == 4 * SIZE
    pair.used = False  # it is in use by pcached still
    sides.stop_backend()
    sides.write_back_all()
    sides.check()


# A front in a process of its own, that can be killed. It says which version of each page it has flushed.
FRONT = """\
import os, random, sys
sys.path[:0] = sys.argv[1].split(":")
from measure.libpcache import Cache
PAGES, PAGE = 2048, 4096
cache = Cache(sys.argv[2], sys.argv[3], role="front", writeback_interval_ms=5)
version, draw = int(sys.argv[4]), random.Random(int(sys.argv[4]))
while True:
    written = []
    for _ in range(draw.randrange(1, 40)):
        version += 1
        page = draw.randrange(PAGES)
        os.write(1, b"w %d %d\\n" % (page, version))
        cache.write(page * PAGE, version.to_bytes(8, "little") * (PAGE // 8))
    cache.flush()
    os.write(1, b"f %d\\n" % version)
"""


class Versions:
    """Of each page: the newest that was flushed, and all that were written since."""

    def __init__(self):
        self.flushed, self.since, self.newest = {}, {}, 1

    def take(self, text):
        pending = []
        for line in text.splitlines():
            words = line.split()
            if words[0] == "w":
                page, version = int(words[1]), int(words[2])
                pending.append((page, version))
                self.since.setdefault(page, []).append(version)
                self.newest = version
            else:
                for page, version in pending:
                    self.flushed[page] = version
                    self.since[page] = [v for v in self.since[page] if v > version]
                pending = []

    def allows(self, page, found):
        return found == self.flushed.get(page, 0) or found in self.since.get(page, [])

    def settle(self, page, found):
        """What is there after a crash stays."""
        self.flushed[page], self.since[page] = found, []


def versions_in(data):
    for page in range(0, len(data), PAGE):
        words = {data[at:at + 8] for at in range(page, page + PAGE, 8)}
        assert len(words) == 1, f"page {page // PAGE} is a mixture"
        yield int.from_bytes(words.pop(), "little")


def test_a_signal_ends_it_while_its_disk_is_away(cache_file, tmp_path, disk):
    """Its disk is on a server, too, which hangs."""
    path = disk / "backing"
    make_backing(path, SIZE)
    (tmp_path / "reads").mkdir()
    reads, writes = Server(tmp_path / "reads", path), Server(tmp_path, path)
    writes.nbdkit()
    Ctl().run("format", cache_file, "--force", "--backing", writes.uri)
    reads.nbdkit("--readonly")
    backend = subprocess.Popen(list(map(str, [PCACHED, cache_file, "--backing", writes.uri, "--emulate-pmem"])),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "has the disk" in backend.stdout.readline()
        writes.kill()
        with Cache(cache_file, reads.uri, role="front") as cache:
            cache.write(0, stamp(0, MIB, 1))
            cache.flush()
            said = backend.stderr.readline()
            while "lost" not in said:
                said = backend.stderr.readline()
            backend.terminate()
            assert backend.wait(timeout=30) == 0
            assert cache.status["dirty"]["live_bytes"] == MIB
    finally:
        backend.kill()
        backend.communicate()
        reads.kill()


def test_a_signal_that_is_ignored_does_not_end_it(sides):
    """As SIGHUP is by nohup, and SIGINT of a job in a shell's background."""
    ignored = [signal.SIGINT, signal.SIGHUP]
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        sides.start_backend()
    finally:
        for number, action in zip(ignored, before):
            signal.signal(number, action)
    for number in ignored:
        sides.backend.send_signal(number)
    with sides.front() as cache:
        for part in range(3):
            cache.write(part * MIB, stamp(part * MIB, MIB, 1))
            cache.flush()
            wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
    assert sides.backend.poll() is None
    sides.stop_backend()


def test_a_signal_that_is_not_ignored_ends_it(sides):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in a shell's background
    try:
        sides.start_backend()
    finally:
        signal.signal(signal.SIGINT, before)
    sides.backend.send_signal(signal.SIGINT)
    said = sides.backend.communicate(timeout=60)
    assert sides.backend.returncode == 0, said
    sides.backend = None


ROUNDS = int(os.environ.get("PCACHE_TWO_SIDES_ROUNDS", "12"))


@pytest.mark.hang_seconds(600)
def test_either_side_is_killed_over_and_over(sides):
    with open(sides.disk, "r+b") as f:
        f.write(bytes(2048 * PAGE))
    draw = random.Random(5)
    versions = Versions()
    paths = ":".join(path for path in sys.path if path)

    def start_front():
        return subprocess.Popen([sys.executable, "-B", "-c", FRONT, paths, sides.cache_path, sides.server.uri,
                                 str(versions.newest)], stdout=subprocess.PIPE, text=True)

    sides.start_backend()
    for number in range(ROUNDS):
        front = start_front()
        time.sleep(draw.uniform(0.3, 0.9))
        victims = draw.choice([["front"], ["backend", "front"], ["front", "backend"], ["backend", "again", "front"]])
        for victim in victims:
            if victim == "front":
                front.kill()
            elif victim == "again":
                sides.start_backend()
                time.sleep(draw.uniform(0.05, 0.3))
            else:
                sides.stop_backend(signal.SIGKILL)
        versions.take(front.communicate()[0])
        if not sides.backend and draw.random() < 0.7:
            sides.start_backend()
        with sides.front() as cache:
            for page, found in enumerate(versions_in(cache.read(0, 2048 * PAGE))):
                assert versions.allows(page, found), f"round {number}: page {page} has {found}"
                versions.settle(page, found)
        if not sides.backend:
            sides.start_backend()
    sides.stop_backend()
    sides.write_back_all()
    sides.check()
    for page, found in enumerate(versions_in(sides.disk.read_bytes()[:2048 * PAGE])):
        assert versions.allows(page, found), f"the disk: page {page} has {found}"
