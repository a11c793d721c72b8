# SPDX-License-Identifier: GPL-2.0-or-later
"""A job ends when it is told to, whatever it waits for: space in a full cache over a device that fails, or a device
that answers nothing. What was flushed is there afterwards."""

import errno
import json
import os
import resource
import signal
import subprocess

import pytest

from fio import environment
from measure.libpcache import MIB
from sick_device import SickDevice, slow_calls
from support import PAGE, wait_until

# What is written again after an fsync has to be written back, and so the log fills.
FILL = dict(rw="write", bs="64k", size="16m", fsync=128, time_based=True, runtime=1000, io_mode="threads",
            stats_file=None)
GRACE_SECONDS = 10  # of the engine, for a device that answers nothing
FAILING = [errno.EIO, errno.ENOSPC, errno.EROFS]


@pytest.fixture
def sick(pair, disk):
    return SickDevice(pair.backing_path, disk)


class Run:
    """fio in the background. Its stderr is followed in a file."""

    def __init__(self, fio, sick, *jobs, name="", **options):
        self.out, self.err = fio.folder / f"out{name}", fio.folder / f"err{name}"
        with open(self.out, "w", encoding="utf-8") as out, open(self.err, "w", encoding="utf-8") as err:
            self.process = subprocess.Popen(fio.command(*jobs, **options), cwd=fio.folder, stdout=out, stderr=err,
                                            env=environment(**getattr(sick, "environment", sick)))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()

    def says(self, *words):
        return [line for line in self.err.read_text().splitlines() if all(str(word) in line for word in words)]

    def wait_for(self, *words):
        wait_until(lambda: self.says(*words) or self.process.poll() is not None, 60)
        assert self.says(*words), f"no line with {words} in:\n{self.err.read_text()}"

    def ends(self):
        """Its exit status; a job that does not end fails the test."""
        wait_until(lambda: self.process.poll() is not None, 100)
        return self.process.returncode

    @property
    def jobs(self):
        text = self.out.read_text()
        return json.loads(text[text.index("{"):])["jobs"]


def full(run):
    """The cache is full, and the device fails: writes wait."""
    run.wait_for("writeback", "tried again")
    run.wait_for("requests wait for space")


def fill_most_of_it(pair):
    """With dirty data, 400 of 512 MiB: what a job writes in its runtime fills the rest on a loaded machine, too.
    Nothing is written back: this process may write to no file meanwhile."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pair.open(writeback_interval_ms=3600 * 1000) as cache:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            for i in range(400):
                cache.write(i % 16 * MIB, bytes(MIB))
            assert cache.status["writeback"]["written_bytes"] == 0
            cache.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", FAILING, ids=errno.errorcode.get)
def test_a_signal_ends_a_job_over_a_failing_device(fio, sick, how, error):
    sick.set(error)
    with Run(fio, sick, **FILL, iodepth=4, end_fsync=1) as run:
        full(run)
        run.process.send_signal(how)
        assert run.ends() != 0
        assert len(run.says("ECANCELED", fio.pair.cache_path)) == 1
        assert run.jobs[0]["error"] == errno.ECANCELED
        assert not run.says("after a crash"), "the device answers"


@pytest.mark.parametrize("depth, more", [
    (1, {}), (32, {}), (32, {"verify": "crc32c", "verify_state_save": 0}), (1, {"ramp_time": 1}), (32, {"sync": 1})],
    ids=str)
def test_the_runtime_ends_a_job_over_a_failing_device(fio, pair, sick, depth, more):
    fill_most_of_it(pair)
    sick.set(errno.EIO)
    with Run(fio, sick, **{**FILL, **more, "runtime": 6}, iodepth=depth) as run:
        assert run.ends() != 0
        assert run.says("ECANCELED")
        assert run.jobs[0]["error"] == errno.ECANCELED


def test_dirty_data_is_there_afterwards(fio, pair, sick):
    """What a cancelled job has written before, also by a flush; and it can be written back later."""
    fio.run(rw="write", bs="4k", size="1m", offset="15m", buffer_pattern='"abcdefgh"', end_fsync=1)
    sick.set(errno.EIO)
    with Run(fio, sick, **{**FILL, "size": "8m"}, iodepth=4) as run:
        full(run)
        run.process.send_signal(signal.SIGINT)
        run.ends()
    sick.set("")
    with pair.open() as cache:
        assert cache.read(15 * MIB, MIB) == b"abcdefgh" * (MIB // 8)
        cache.drain()
    assert pair.backing_path.read_bytes()[15 * MIB:] == b"abcdefgh" * (MIB // 8)


def test_a_drain_over_a_failing_device_says_so_and_ends(fio, sick):
    sick.set(errno.EIO)
    with Run(fio, sick, **FILL, iodepth=4, drain=1) as run:
        full(run)
        run.process.send_signal(signal.SIGINT)
        assert run.ends() != 0
        assert len(run.says("draining", "stays in the cache")) == 1


def test_a_healthy_job_whose_runtime_ends_is_no_error(fio, sick):
    """Its writes wait for space, too, and get it."""
    with Run(fio, sick, **{**FILL, "runtime": 4}, iodepth=16) as run:
        assert run.ends() == 0
        assert not run.says("ECANCELED") and run.jobs[0]["error"] == 0


@pytest.mark.kills
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, None])
def test_a_device_that_hangs_ends_fio(fio, pair, sick, how):
    """Reads in flight; by a signal, and when the runtime is over."""
    with pair.open() as cache:
        cache.write(0, b"x" * PAGE)
        cache.flush()
    sick.set("hang")
    with Run(fio, sick, rw="randread", bs="4k", size="16m", iodepth=4, io_mode="threads",
             runtime=1000 if how else 5, time_based=True) as run:
        if how:
            wait_until(lambda: sick.held == 4)
            run.process.send_signal(how)
        assert run.ends() not in (0, None, -signal.SIGKILL)
        assert len(run.says("ends, and waits for 4 requests", pair.backing_path)) == 1
        assert len(run.says("has not answered", pair.backing_path, "left as after a crash")) == 1
    with pair.open() as cache:
        assert cache.read(0, PAGE) == b"x" * PAGE


@pytest.mark.kills
@pytest.mark.parametrize("drain", [0, 1])
def test_writeback_that_hangs_at_the_end(fio, pair, sick, drain):
    """The jobs have come to their end by themselves: fio waits, says for what, and a signal ends it. The second of them
    begins when writeback has."""
    sick.set("hang")
    options = dict(io_mode="threads", drain=drain, writeback_interval_ms=50)
    until_held = f"sh -c 'until [ -s {sick.held_path} ]; do sleep 0.05; done'"
    with Run(fio, sick, {"name": "one", "rw": "write", "bs": "4k", "size": "1m", "end_fsync": 1,
                         "buffer_pattern": '"abcdefgh"'},
             {"name": "two", "stonewall": True, "exec_prerun": until_held, "rw": "read", "bs": "4k", "size": "4k"},
             **options) as run:
        run.wait_for("waits for", pair.backing_path, "Ctrl-C")
        assert run.process.poll() is None, "nobody has asked it to end"
        run.process.send_signal(signal.SIGINT)
        assert run.ends() not in (0, None)
        assert run.says("left as after a crash", pair.cache_path)
    with pair.open() as cache:
        assert cache.read(0, MIB) == b"abcdefgh" * (MIB // 8)


def test_a_device_that_answers_again_is_no_error(fio, pair, sick):
    sick.set("hang")
    with Run(fio, sick, rw="write", bs="4k", size="1m", io_mode="threads", drain=1,
             buffer_pattern='"abcdefgh"') as run:
        run.wait_for("draining", pair.backing_path, "Ctrl-C")
        sick.set("")
        assert run.ends() == 0
    assert pair.backing_path.read_bytes()[:MIB] == b"abcdefgh" * (MIB // 8)


def test_a_fifo_is_refused_at_once(fio, disk, shm):
    for folder, option in ((disk, "filename"), (shm, "cache_dev")):
        os.mkfifo(folder / "fifo")
        fio.refused(folder / "fifo", "FIFO", rw="write", bs="4k", size="64k", **{option: folder / "fifo"})


SHORT = dict(rw="write", bs="4k", size="1m", time_based=True, runtime=1)


def test_an_opening_that_takes_long_is_no_device_that_hangs(fio, pair, disk):
    """No runtime has begun; a signal ends it. The second never comes to the pair."""
    slow = slow_calls(disk, open=GRACE_SECONDS + 3)
    slower = {**slow, "SLOW_OPEN": "1000"}
    with Run(fio, slow, **SHORT) as run, Run(fio, slower, name="2", **{**SHORT, "stats_file": None}) as stopped:
        stopped.wait_for("slow opening")
        stopped.process.send_signal(signal.SIGINT)
        assert stopped.ends() == 1
        assert stopped.says("opening", pair.cache_path, "as after a crash") and not stopped.says("answered")
        assert run.ends() == 0, run.err.read_text()
        assert len(run.says("opening", pair.cache_path, "still goes on")) == 1 and not run.says("answered")


def test_a_closing_that_gets_on_is_waited_for(fio, disk):
    """A full log over a slow disk: the runtime is over long ago."""
    with Run(fio, slow_calls(disk, close=GRACE_SECONDS + 2), **SHORT) as run:
        assert run.ends() == 0, run.err.read_text()
        assert not run.says("closing")
