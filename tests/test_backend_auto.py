# SPDX-License-Identifier: GPL-2.0-or-later
"""backend=auto: a front finds pcached, or starts one that ends with it. Whoever is killed, nobody is left for ever, and
who is careless gets one line."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from ctl import Ctl
from fio import FIO, Fio, environment
from measure.libpcache import BUILD, MIB, ROOT, Cache, PcacheError
from support import Pair, file_state, make_backing, stamp, wait_until
from test_nbd_backing import Server
from test_nbdkit import good, served, tool

PCACHED = BUILD / "bin/pcached"
SIZE = 64 * MIB


class Auto:
    """A formatted cache and its disk, of which nobody has anything yet."""

    def __init__(self, cache_path, disk):
        self.cache_path, self.disk = cache_path, disk
        Ctl().run("format", cache_path, "--force", "--backing", disk)

    def front(self, **options):
        return Cache(self.cache_path, self.disk, **{"role": "front", "backend": "auto", **options})

    def refused(self, **options):
        """One line."""
        with pytest.raises(PcacheError) as refused:
            self.front(**options)
        text = str(refused.value)
        assert "\n" not in text
        return text

    def pids(self):
        """Of the pcached, and of the nbdkit, that have this cache or its disk."""
        found = {}
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended
                continue
            name = pathlib.Path(words[0]).name
            if (name == "pcached" and str(self.cache_path) in words) or (
                    name == "nbdkit" and f"file={self.disk}" in words):
                found.setdefault(name, []).append(int(path.parent.name))
        return found

    def is_alone(self):
        """Nobody is left, nor what he has listened at."""
        left = [p.name for p in pathlib.Path(os.environ["PCACHE_RUNTIME_DIR"]).iterdir() if p.name != ".lock"]
        return not self.pids() and not left

    def backend(self, *options):
        process = subprocess.Popen(list(map(str, [PCACHED, self.cache_path, "--backing", self.disk, "--emulate-pmem",
                                                  *options])), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        line = process.stdout.readline()
        assert "has the disk" in line, line + process.stderr.read()
        return process

    def write_back_all(self):
        done = subprocess.run([PCACHED, self.cache_path, "--backing", self.disk, "--emulate-pmem", "--once"],
                              capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


def end(process):
    process.terminate()
    said = process.communicate(timeout=60)
    assert process.returncode == 0, said


@pytest.fixture
def auto(cache_file, disk):
    made = Auto(cache_file, make_backing(disk / "backing", SIZE))
    yield made
    for pid in made.pids().get("pcached", []):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not made.pids())


def written(cache, model, count, tag):
    for number in range(count):
        off = number * 17 * MIB % SIZE
        data = stamp(off, MIB, tag + number)
        cache.write(off, data)
        model[off:off + MIB] = data


def test_it_is_started_serves_and_ends_with_the_front(auto):
    model = bytearray(auto.disk.read_bytes())
    with auto.front(writeback_interval_ms=50) as cache:
        assert {name: len(pids) for name, pids in auto.pids().items()} == {"pcached": 1, "nbdkit": 1}
        assert cache.read(0, SIZE) == model
        written(cache, model, 20, 100)
        cache.flush()
        wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
        shown = Ctl().json("status", auto.cache_path)
        assert shown["backend"]["attached"]["pid"] == auto.pids()["pcached"][0]
        assert shown["backend"]["attached"]["serves"] in shown["attached"]["backing"]
    assert auto.is_alone()
    assert auto.disk.read_bytes() == model


def test_what_it_has_not_written_back_is_there_for_the_next(auto):
    """As of role=both without drain=1."""
    model = bytearray(auto.disk.read_bytes())
    for round_ in range(3):
        with auto.front(writeback_interval_ms=3600000) as cache:
            assert cache.read(0, SIZE) == model
            written(cache, model, 40, 100 * round_)
        assert auto.is_alone()
    auto.write_back_all()
    assert auto.disk.read_bytes() == model


FRONT = """\
import sys
sys.path[:0] = sys.argv[1].split(":")
from measure.libpcache import Cache
from support import stamp
cache = Cache(sys.argv[2], sys.argv[3], role="front", backend="auto", writeback_interval_ms=3600000)
for off in range(0, 64 << 20, 1 << 20):
    cache.write(off, stamp(off, 1 << 20, 7))
cache.flush()
print("flushed", flush=True)
sys.stdin.read()
"""


def start_front(auto):
    process = subprocess.Popen([sys.executable, "-B", "-c", FRONT, ":".join(p for p in sys.path if p),
                                auto.cache_path, auto.disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line == "flushed\n", process.stderr.read()
    return process


def test_a_killed_front_leaves_a_backend_until_all_is_written_back(auto):
    front = start_front(auto)
    front.kill()
    front.communicate()
    wait_until(lambda: not auto.pids())
    assert auto.disk.read_bytes() == stamp(0, SIZE, 7)


def test_a_killed_front_is_followed_at_once(auto):
    """By one that does not go on with a backend which is about to end."""
    for _ in range(5):
        front = start_front(auto)
        front.kill()
        front.communicate()
    with auto.front(writeback_interval_ms=3600000) as cache:
        assert cache.read(0, SIZE) == stamp(0, SIZE, 7)
        cache.write(0, stamp(0, MIB, 8))
        cache.flush()
        cache.set("writeback_interval_ms", "20")
        wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
        assert len(auto.pids()["pcached"]) == 1
    assert auto.is_alone()


def test_a_second_front_is_refused_and_the_first_goes_on(auto):
    with auto.front() as cache:
        pids = auto.pids()
        said = auto.refused()
        assert "another front has it" in said and str(pids["pcached"][0]) in said
        assert auto.pids() == pids
        cache.write(0, stamp(0, MIB, 1))
        cache.flush()
        assert cache.read(SIZE - MIB, MIB) == stamp(SIZE - MIB, MIB, 0)
    assert auto.is_alone()


def test_one_that_is_there_is_used_and_left(auto, tmp_path):
    process = auto.backend("--serve", tmp_path / "disk.sock")
    with auto.front(writeback_interval_ms=20) as cache:
        assert auto.pids()["pcached"] == [process.pid]
        assert cache.read(0, SIZE) == stamp(0, SIZE, 0)
        cache.write(0, stamp(0, MIB, 1))
        cache.flush()
        wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
        assert "another front has it" in auto.refused()
    assert process.poll() is None and auto.pids()["pcached"] == [process.pid]
    end(process)
    assert auto.is_alone() and not (tmp_path / "disk.sock").exists()


def test_one_whose_disk_is_on_a_server(auto, tmp_path):
    server = Server(tmp_path, auto.disk)
    server.nbdkit()
    try:
        Ctl().run("format", auto.cache_path, "--force", "--backing", server.uri)
        with Cache(auto.cache_path, server.uri, role="front", backend="auto", writeback_interval_ms=20) as cache:
            cache.write(0, stamp(0, MIB, 1))
            cache.flush()
            wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
        assert not auto.pids().get("pcached")
    finally:
        server.kill()
    assert auto.disk.read_bytes()[:MIB] == stamp(0, MIB, 1)


def end_with_input(auto, how):
    process = subprocess.Popen([PCACHED, auto.cache_path, "--backing", auto.disk, "--emulate-pmem", "--until-eof"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "has the disk" in process.stdout.readline()
    said = process.communicate(how, timeout=60)
    return process.returncode, *said


def test_pcached_ends_with_its_input(auto):
    with Cache(auto.cache_path, auto.disk, writeback_interval_ms=3600000) as cache:
        cache.write(0, stamp(0, MIB, 1))
    assert end_with_input(auto, "go on\nend\n")[0] == 0
    assert end_with_input(auto, "end of it\n")[0] == 0
    assert auto.disk.read_bytes()[:MIB] == stamp(0, MIB, 1)


def test_a_backend_that_nobody_has_and_whose_disk_hangs_ends(auto, tmp_path):
    server = Server(tmp_path, auto.disk)
    server.nbdkit()
    try:
        Ctl().run("format", auto.cache_path, "--force", "--backing", server.uri)
        with Cache(auto.cache_path, server.uri, writeback_interval_ms=3600000) as cache:
            cache.write(0, stamp(0, MIB, 1))
        process = subprocess.Popen([PCACHED, auto.cache_path, "--backing", server.uri, "--emulate-pmem", "--until-eof",
                                    "--patience", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        server.signal(signal.SIGSTOP)
        said = process.communicate(timeout=60)
        assert process.returncode == 3
        assert "nothing was written back for 1 s: it ends, and the rest stays in the cache" in said[1]
    finally:
        server.kill()
    server.nbdkit()
    try:
        with Cache(auto.cache_path, server.uri) as cache:
            assert cache.read(0, MIB) == stamp(0, MIB, 1)
    finally:
        server.kill()


def test_nbdkit_is_started_again(auto):
    """It is started again, and the front goes on."""
    with auto.front() as cache:
        killed = auto.pids()["nbdkit"]
        os.kill(killed[0], signal.SIGKILL)
        assert cache.read(0, SIZE) == stamp(0, SIZE, 0)
        assert auto.pids()["nbdkit"] != killed
    assert auto.is_alone()


# ---- Who is careless ----

def test_one_that_serves_nothing_or_has_another_disk(auto, disk, tmp_path):
    process = auto.backend()
    assert "does not serve the disk: start it with --serve" in auto.refused()
    other = make_backing(disk / "other", SIZE)
    with pytest.raises(PcacheError, match=f"with the disk {auto.disk}, not {other}"):
        Cache(auto.cache_path, other, role="front", backend="auto")
    end(process)


def test_without_pcached_or_nbdkit(auto, tmp_path, monkeypatch):
    assert "/no/such/pcached cannot be started: No such file" in auto.refused(backend="/no/such/pcached")
    for script, words in (("exit 7", "pcached has ended with exit status 7"),
                          ("echo first >&2; echo 'not today' >&2; exit 3", "option backend: not today"),
                          ("kill -9 $$", "pcached was ended by signal 9")):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert words in auto.refused(backend=str(program))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    said = auto.refused()
    assert "nbdkit, which is to serve the disk" in said and "install it" in said
    assert auto.is_alone()


def test_what_a_backend_says_when_it_refuses_is_passed_on(auto, disk):
    with pytest.raises(PcacheError, match="option backend: pcached: .*belongs to"):
        Cache(auto.cache_path, make_backing(disk / "other", 2 * SIZE), role="front", backend="auto")
    blank = disk / "blank"
    with open(blank, "wb") as f:
        f.truncate(512 * MIB)
    before = file_state(blank)
    with pytest.raises(PcacheError, match="option backend: pcached: .*is blank: pcachectl format"):
        Cache(blank, auto.disk, role="front", backend="auto")
    assert file_state(blank) == before
    with Cache(auto.cache_path, auto.disk):
        assert "in use" in auto.refused()
    with pytest.raises(PcacheError, match="No such file"):
        Cache(disk / "none", auto.disk, role="front", backend="auto")
    with pytest.raises(PcacheError, match="No such file"):
        Cache(auto.cache_path, disk / "none", role="front", backend="auto")
    assert auto.is_alone()


def test_options_that_contradict(auto):
    with pytest.raises(PcacheError, match="option backend: contradicts role=both"):
        Cache(auto.cache_path, auto.disk, backend="auto")
    assert "contradicts role=front" in auto.refused(gc_percent=50)
    assert auto.is_alone()


# ---- Front ends ----

def test_nbdkits_plugin_is_a_front(auto, tmp_path):
    pair = Pair(auto.cache_path, auto.disk)
    source = tmp_path / "source"
    source.write_bytes(stamp(0, SIZE, 5))
    nbdcopy = tool("nbdcopy", "libnbd-bin")
    with served(pair, tmp_path, "role=front", "backend=auto", "prefault=beside") as (uri, _):
        wait_until(lambda: len(auto.pids().get("pcached", [])) == 1)  # nbdkit listens before it opens the cache
        good(nbdcopy, "--flush", source, uri)
        good(nbdcopy, uri, tmp_path / "read")
    assert (tmp_path / "read").read_bytes() == source.read_bytes()
    assert auto.is_alone()
    auto.write_back_all()
    assert auto.disk.read_bytes() == source.read_bytes()


def test_fio_verifies_by_a_front_alone(auto, disk):
    """With nothing but the two devices named."""
    pair = Pair(auto.cache_path, auto.disk)
    jobs = Fio(pair, disk).run(rw="randwrite", bsrange="4k-128k", size="64m", loops=4, verify="crc32c", verify_fatal=1,
                               iodepth=16, fsync=32, role="front", backend="auto", verify_state_save=0)
    assert jobs[0]["read"]["io_bytes"] == jobs[0]["write"]["io_bytes"] == 4 * SIZE
    assert auto.is_alone()
    auto.write_back_all()


def test_the_example(auto, disk):
    os.truncate(auto.disk, 512 * MIB)
    Ctl().run("format", auto.cache_path, "--force", "--backing", auto.disk)
    job = ROOT / "engine/examples/two-sides.fio"
    done = subprocess.run([FIO, job], capture_output=True, text=True, check=False, timeout=400, cwd=disk,
                          env=environment(PCACHE_LIB=str(BUILD / "lib"), CACHE_DEV=str(auto.cache_path),
                                          BACKING=str(auto.disk)))
    assert done.returncode == 0, done.stderr + done.stdout
    assert auto.is_alone()


def test_fio_says_why_it_is_refused(auto, disk):
    pair = Pair(auto.cache_path, auto.disk)
    fio = Fio(pair, disk)
    with Cache(auto.cache_path, auto.disk):
        fio.refused("option backend: pcached: ", "in use", rw="read", role="front", backend="auto")
    fio.refused("option backend", "contradicts", rw="read", backend="auto")
    assert auto.is_alone()
