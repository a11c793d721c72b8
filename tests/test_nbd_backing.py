# SPDX-License-Identifier: GPL-2.0-or-later
"""A backing device on a server of NBD: real servers (nbdkit, qemu-nbd), and volatile_nbd.py, which loses on SIGKILL
what was not flushed. The server dies, hangs, comes back, and no byte is lost."""

import concurrent.futures
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading

import pytest

from fio import Fio
from measure.libpcache import DISCARD, MIB, READ, WRITE, WRITE_ZEROES, Cache, PcacheError, Request
from support import PAGE, Pair, file_state, make_backing, stamp, wait_until
from test_nbdkit import command, good, tool

VOLATILE = pathlib.Path(__file__).with_name("volatile_nbd.py")
SIZE = 16 * MIB


class Uri(str):
    """A backing device's address, where tests of files have a path."""

    def exists(self):
        return True


class Server:
    """A server of a file on a UNIX socket, which can be killed, stopped, and started again."""

    def __init__(self, folder, path):
        self.socket, self.path, self.process = folder / "nbd.sock", path, None
        self.uri = Uri(f"nbd+unix:///?socket={self.socket}")
        self.fio_name = Uri(self.uri.replace(":", "\\:"))

    def start(self, command, ready):
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        wait_until(lambda: ready() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.stderr.read()

    def nbdkit(self, *options):
        pid = self.socket.with_suffix(".pid")
        pid.unlink(missing_ok=True)
        filters = [option for option in options if option.startswith("-")]
        values = [option for option in options if not option.startswith("-")]
        # nbdkit 1.32 ends with the thread that has started it, so that is the main one.
        self.start([tool("nbdkit", "nbdkit"), "--foreground", "--unix", self.socket, "--pidfile", pid, *filters, "file",
                    self.path, *values], pid.exists)

    def qemu(self):
        self.start([tool("qemu-nbd", "qemu-utils"), "--persistent", "--format=raw", "--cache=none", "--aio=native",
                    f"--socket={self.socket}", self.path], self.socket.exists)

    def volatile(self, *options):
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, "-B", VOLATILE, self.socket, self.path, *options]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def server(tmp_path, disk):
    path = disk / "backing"
    make_backing(path, SIZE)
    made = Server(tmp_path, path)
    yield made
    if made.process.poll() is None:
        made.kill()


@pytest.fixture
def remote(cache_file, server):
    """A cache file and its backing device on `server`."""
    pair = Pair(cache_file, server.uri)
    yield pair
    pair.close_all()


@contextlib.contextmanager
def dying(server, draw, shortest, longest, *options):
    """Volatile, killed over and over meanwhile, each time after so many seconds; it is there at the end."""
    stop = threading.Event()

    def kill_and_start():
        while not stop.wait(draw.uniform(shortest, longest)):
            server.kill()
            server.volatile(*options)

    killer = threading.Thread(target=kill_and_start)
    killer.start()
    try:
        yield
    finally:
        stop.set()
        killer.join()


def check_file(server, model):
    with open(server.path, "rb") as f:
        assert f.read() == model


@pytest.mark.parametrize("start", ["nbdkit", "qemu", "volatile"])
def test_what_is_written_is_on_the_servers_file(server, remote, start):
    getattr(server, start)()
    model = bytearray(server.path.read_bytes())
    draw = random.Random(start)
    with remote.open(data_crc=1) as cache:
        for number in range(200):
            off = draw.randrange(SIZE // PAGE) * PAGE
            length = min(draw.choice([512, PAGE, 16 * PAGE, MIB]), SIZE - off)
            kind = draw.choice([WRITE, WRITE, WRITE, DISCARD, WRITE_ZEROES])
            data = stamp(off, length, number) if kind == WRITE else bytes(length)
            cache.queue.run(Request(kind, off, data) if kind == WRITE else Request(kind, off, length=length))
            model[off:off + length] = data
        assert cache.read(0, SIZE) == model
        assert cache.status["backing"]["io_mode"] == "nbd" and cache.status["backing"]["connected"] is True
        cache.drain()
    check_file(server, model)


@pytest.mark.parametrize("single", [False, True], ids=["multi_conn", "single"])
def test_no_byte_is_lost_with_a_server_that_loses_what_it_has_not_flushed(server, remote, single):
    """The server dies over and over while writeback runs, and once more when all is drained."""
    options = ["--single"] if single else []
    server.volatile(*options)
    model = bytearray(server.path.read_bytes())
    draw = random.Random(7)
    cache = remote.open(writeback_interval_ms=1, flush_delay_ms=1)
    with dying(server, draw, 0.02, 0.15, *options):
        number = 0
        while cache.status["backing"]["lost_connections"] < 12:
            number += 1
            off = draw.randrange(SIZE // PAGE) * PAGE
            length = min(draw.choice([512, PAGE, 16 * PAGE]), SIZE - off)
            data = stamp(off, length, number)
            cache.write(off, data)
            model[off:off + length] = data
            if number % 50 == 0:
                at = draw.randrange(SIZE // MIB) * MIB
                assert cache.read(at, MIB) == model[at:at + MIB]
    cache.drain()
    assert cache.status["dirty"]["live_bytes"] == 0
    server.kill()
    check_file(server, model)
    server.volatile(*options)


def test_a_drain_goes_on_with_the_server_that_comes_back(server, remote):
    server.volatile()
    draw = random.Random(3)
    with remote.open(writeback_interval_ms=60000) as cache:
        for number in range(10):
            for off in range(0, SIZE, 4 * MIB):
                cache.write(off, stamp(off, MIB, number))

            def kill_and_start():
                stop.wait(draw.uniform(0, 0.1))
                server.kill()
                server.volatile()

            stop = threading.Event()
            killer = threading.Thread(target=kill_and_start)
            killer.start()
            cache.drain()
            killer.join()
        assert cache.status["backing"]["lost_connections"] > 0
        server.kill()
        with open(server.path, "rb") as f:
            for off in range(0, SIZE, 4 * MIB):
                f.seek(off)
                assert f.read(MIB) == stamp(off, MIB, 9)
        server.volatile()


def test_no_write_that_waits_for_the_device_fails_with_its_server(server, remote):
    """writethrough: each is acknowledged when the server has flushed it, however often that was lost before."""
    server.volatile()
    model = bytearray(server.path.read_bytes())
    draw = random.Random(9)
    cache = remote.open(cache_mode="writethrough")
    with dying(server, draw, 0.05, 0.2):
        number = 0
        while cache.status["backing"]["lost_connections"] < 15:
            number += 1
            off = draw.randrange(SIZE // PAGE) * PAGE
            data = stamp(off, PAGE, number)
            cache.write(off, data)
            model[off:off + PAGE] = data
    server.kill()
    check_file(server, model)
    server.volatile()


@pytest.mark.parametrize("option", ["--garbage-after=30", "--hang-up-after=30"])
def test_a_server_that_misbehaves_costs_a_connection(server, remote, option):
    server.volatile(option)
    model = bytearray(server.path.read_bytes())
    with remote.open() as cache:
        for off in range(0, SIZE, 64 * PAGE):
            data = stamp(off, PAGE, 1)
            cache.write(off, data)
            model[off:off + PAGE] = data
            assert cache.read(off + PAGE, PAGE) == model[off + PAGE:off + 2 * PAGE]
        cache.drain()
        assert cache.status["backing"]["lost_connections"] >= 1
    check_file(server, model)


def test_hits_and_writes_go_on_while_the_server_is_away(server, remote):
    server.nbdkit()
    with remote.open() as cache:
        cache.write(0, stamp(0, PAGE, 1))
        server.kill()
        cache.write(PAGE, stamp(PAGE, PAGE, 2))
        cache.flush()
        assert cache.read(0, 2 * PAGE) == stamp(0, PAGE, 1) + stamp(PAGE, PAGE, 2)
        queue = cache.new_queue()
        miss = Request(READ, 64 * PAGE, length=PAGE)
        queue.submit(miss)
        wait_until(lambda: cache.status["backing"]["connected"] is False)
        assert queue.reap(0, 1, 0) == []
        status = cache.status["backing"]
        assert status["waiting_for_server"] >= 1 and status["why_not_connected"]
        server.nbdkit()
        assert queue.reap(1, 1, -1) == [miss] and miss.result == 0
        assert miss.data == stamp(64 * PAGE, PAGE, 0)
        wait_until(lambda: cache.status["backing"]["connected"])
    assert any("the connection is lost" in line for line in cache.warnings)


def test_it_closes_while_the_server_is_away_and_goes_on_when_it_is_back(server, remote):
    server.nbdkit()
    data = stamp(0, MIB, 5)
    with remote.open(writeback_interval_ms=1) as cache:
        server.kill()
        cache.write(0, data)
        wait_until(lambda: cache.status["backing"]["connected"] is False)
    server.nbdkit()
    with remote.open() as cache:
        assert cache.read(0, MIB) == data
        cache.drain()
    with open(server.path, "rb") as f:
        assert f.read(MIB) == data


def test_a_server_that_hangs_is_waited_for(server, remote):
    server.nbdkit()
    with remote.open() as cache:
        server.signal(signal.SIGSTOP)
        miss = Request(READ, 0, length=PAGE)
        cache.queue.submit(miss)
        assert cache.queue.reap(0, 1, 0) == []
        cache.write(8 * PAGE, stamp(8 * PAGE, PAGE, 3))
        server.signal(signal.SIGCONT)
        cache.drain()
        assert miss in cache.queue.reap(1, 1, -1) and miss.result == 0
        assert cache.status["backing"]["lost_connections"] == 0


def test_fio_verifies_over_a_server_that_is_killed(cache_file, server, disk):
    """The cache is a fraction of the device: misses, fills and writeback all go by NBD."""
    with open(server.path, "wb") as f:
        f.truncate(2048 * MIB)
    server.nbdkit()
    pair = Pair(cache_file, server.fio_name)
    fio = Fio(pair, disk)
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        run = other.submit(fio.run, rw="randwrite", bsrange="4k-256k", size="1g", io_size="1g", verify="crc32c",
                           verify_fatal=1, iodepth=16, thread=1, verify_state_save=0)
        while not concurrent.futures.wait([run], 1).done:
            server.kill()
            server.nbdkit()
        jobs = run.result()
    assert jobs[0]["read"]["io_bytes"] == jobs[0]["write"]["io_bytes"] == 1024 * MIB
    backing = fio.stats["backing"]
    assert backing["io_mode"] == "nbd" and backing["lost_connections"] > 0
    pair.backing_path = server.uri


def test_jobs_of_one_fio_share_it(cache_file, server, disk):
    server.nbdkit()
    pair = Pair(cache_file, server.fio_name)
    jobs = Fio(pair, disk).run({"name": "one"}, {"name": "two"}, rw="randrw", bs="4k", size="8m", thread=1)
    assert len(jobs) == 2
    pair.backing_path = server.uri


def test_fio_says_how_an_address_is_written(cache_file, server, disk):
    server.nbdkit()
    pair = Pair(cache_file, server.uri)
    Fio(pair, disk).refused("several names with colons between them", "nbd\\://host/disk")


def test_the_tools_take_an_address(server, remote, ctl, tmp_path):
    server.nbdkit()
    data = stamp(0, MIB, 9)
    with remote.open(drain=0, writeback_interval_ms=60000) as cache:
        cache.write(0, data)
    cache_path = remote.cache_path
    assert f'"nbd {server.uri}"' in ctl.run("status", cache_path, "--backing", server.uri).stdout
    ctl.run("check", cache_path, "--backing", server.uri)
    assert "names backing device" in ctl.run("check", cache_path, "--backing", server.path, code=2).stdout
    whole = tmp_path / "whole"
    ctl.run("export", cache_path, "--backing", server.uri, "--to", whole)
    expected = data + server.path.read_bytes()[MIB:]
    assert whole.read_bytes() == expected
    assert "nbd-client" in ctl.refused("table", cache_path, "--backing", server.uri)
    ctl.run("writeback", cache_path, "--to", server.uri)
    assert server.path.read_bytes() == expected


def test_the_plugin_stands_on_a_server(server, cache_file, tmp_path):
    """nbdkit's plugin over a cache over a server of NBD."""
    server.nbdkit()
    socket, pid = tmp_path / "front.sock", tmp_path / "front.pid"
    words = command(Pair(cache_file, server.uri))
    front = subprocess.Popen([words[0], "--unix", str(socket), "--pidfile", str(pid), *map(str, words[1:])])
    try:
        wait_until(lambda: pid.exists() or front.poll() is not None)
        source = tmp_path / "source"
        source.write_bytes(random.Random(3).randbytes(SIZE))
        uri = f"nbd+unix:///?socket={socket}"
        good(tool("nbdcopy", "libnbd-bin"), "--flush", source, uri)
        good(tool("nbdcopy", "libnbd-bin"), uri, tmp_path / "read")
        assert (tmp_path / "read").read_bytes() == source.read_bytes()
    finally:
        front.terminate()
        front.wait(60)


@pytest.mark.parametrize("uri,words", [
    ("nbd+unix:///?socket=/nowhere/socket", ("cannot connect", "No such file")),
    ("nbd://127.0.0.1:1/disk", ("cannot connect", "refused")),
    ("nbd+unix:///", ("expected one socket=PATH",)),
    ("nbd+unix:///?socket=run/x", ("is not absolute",)),
])
def test_a_server_that_is_not_there_is_refused_in_one_line(cache_file, uri, words):
    with pytest.raises(PcacheError) as refused:
        Cache(cache_file, uri)
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_a_server_without_flush_is_refused_and_nothing_is_formatted(server, cache_file):
    server.volatile("--no-flush")
    before = file_state(cache_file)
    with pytest.raises(PcacheError, match="the server has no flush"):
        Cache(cache_file, server.uri)
    assert file_state(cache_file) == before


def test_a_size_that_was_told_once_is_not_asked_for_again(server, remote, ctl):
    server.nbdkit()
    with remote.open() as cache:
        os.truncate(server.path, SIZE + MIB)
        assert "tells its size when it is connected to" in ctl.refused("resize-backing", remote.cache_path)
        assert cache.info.logical_bytes == SIZE
        cache.write(0, stamp(0, MIB, 1))
        os.truncate(server.path, SIZE)


def test_a_server_that_is_replaced_by_another_size_is_told_of(server, remote):
    server.nbdkit()
    with remote.open():
        pass
    server.kill()
    with open(server.path, "r+b") as f:
        f.truncate(SIZE // 2)
    server.nbdkit()
    with pytest.raises(PcacheError, match="backing device"):
        remote.open()
    server.kill()
    with open(server.path, "r+b") as f:
        f.truncate(SIZE)
    server.nbdkit()
