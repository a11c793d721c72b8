# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep, compare and gate end when they are told to, whenever that is, and leave nothing running."""

import os
import pathlib
import signal
import subprocess

import pytest

from measure.libpcache import BUILD
from support import wait_until
from test_sweep import HEAD, SWEEP, write

DISK = HEAD.replace("1s", "60s") + "matrix: {engine: uring, cache_size: 512m, working_set: 0.02}\n"
CLEAN = HEAD.replace("1s", "60s") + "matrix: {engine: pcache, fill: clean, cache_size: 512m, working_set: 0.02}\n"
SLOW_EXEC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int execvp(const char* file, char* const arguments[]) {
  usleep(700000);
  return ((int (*)(const char*, char* const[]))dlsym(RTLD_NEXT, "execvp"))(file, arguments);
}
"""
# It fills to the end, which comes when it has been told to stop.
DEAF_FIO = """#!/bin/sh
case "$*" in
  *.fill.*)
    trap ': > "$FILLING.told"' TERM
    : > "$FILLING"
    while [ ! -e "$FILLING.told" ]; do sleep 0.05; done
    exit 0 ;;
  *.fio) echo started > "$MEASURED" ;;
esac
"""


def hear_ctrl_c():
    """What a shell has started in the background is deaf to it, and so is what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start():
    """Starts pcache-sweep; what a test that fails leaves running is killed."""
    started = []
    def start(*arguments, **env):
        started.append(subprocess.Popen([SWEEP, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, env={**os.environ, **{k: str(v) for k, v in env.items()}},
                                        preexec_fn=hear_ctrl_c))
        return started[-1]
    yield start
    for process in started:
        process.kill()
        process.wait()


def running_in(folder):
    """Processes that were told of the folder, or stand in it, as fio does."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + os.fsencode(os.readlink(process / "cwd"))
            if str(folder).encode() in told and int(process.name) != os.getpid():
                found.append(int(process.name))
        except OSError:
            pass
    return found


def command_of(pid):
    try:
        return (pathlib.Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def test_ctrl_c_before_fio_is_fio_is_not_lost(tmp_path, start):
    write(tmp_path, SLOW_EXEC, "slow.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "slow.so", tmp_path / "slow.c", "-ldl"], check=True)
    process = start("run", write(tmp_path, DISK), "--output", tmp_path / "run", "--backing-dir", tmp_path,
                    LD_PRELOAD=tmp_path / "slow.so")
    wait_until(lambda: list((tmp_path / "run" / "raw").glob("*.err")))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted; pcache-sweep run --resume" in said


def test_ctrl_c_during_the_fill_starts_no_measurement(tmp_path, start):
    fio = write(tmp_path, DEAF_FIO, "fio")
    fio.chmod(0o755)
    process = start("run", write(tmp_path, CLEAN), "--output", tmp_path / "run", "--backing-dir", tmp_path,
                    PATH=f"{tmp_path}:{os.environ['PATH']}", MEASURED=tmp_path / "measured",
                    FILLING=tmp_path / "filling")
    wait_until((tmp_path / "filling").exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert (tmp_path / "filling.told").exists()
    assert not (tmp_path / "run" / "raw" / "00000.fio").exists(), "nor was its job written"
    assert not (tmp_path / "measured").exists() and (tmp_path / "run" / "results.jsonl").read_text() == ""


@pytest.mark.parametrize("how, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_what_compare_has_started_ends_with_it(tmp_path, start, how, status):
    spec = write(tmp_path, CLEAN.replace("clean", "empty"))
    process = start("compare", BUILD, BUILD, "--spec", spec, TMPDIR=tmp_path)
    wait_until(lambda: list(tmp_path.glob("*/run/raw/*.err")))
    wait_until(lambda: len(running_in(tmp_path)) >= 2)
    process.send_signal(how)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status and "--resume" not in said and "Traceback" not in said
    wait_until(lambda: not running_in(tmp_path))
    assert how == signal.SIGKILL or not list(tmp_path.glob("pcache-compare-*"))


def test_a_sweep_that_is_killed_takes_its_fio_along(tmp_path, start):
    """Which a resumed one would write beside."""
    process = start("run", write(tmp_path, DISK), "--output", tmp_path / "run", "--backing-dir", tmp_path)
    wait_until(lambda: b"fio\0" in b"".join(command_of(pid)[:4] for pid in running_in(tmp_path / "run" / "raw")))
    process.kill()
    process.wait()
    wait_until(lambda: not running_in(tmp_path))


# Counting takes longer than anybody waits.
SLOW_VALGRIND = """#!/bin/sh
sleep 1000
"""


def test_what_gate_counts_ends_with_it(tmp_path, start):
    write(tmp_path, SLOW_VALGRIND, "valgrind").chmod(0o755)
    process = start("gate", "--baseline", tmp_path / "gate.json", "--counts", "--only", "write_hit", "--accept", "why",
                    TMPDIR=tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    wait_until(lambda: running_in(tmp_path / "pcache-counts"))
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 143
    assert not running_in(tmp_path) and [p.name for p in tmp_path.iterdir()] == ["valgrind"]
