# SPDX-License-Identifier: GPL-2.0-or-later
"""bench/writeback.py: it measures, small; what it cannot do it says in one line; it cleans up."""

import os
import re
import signal
import subprocess

import pytest

from fio import require_engine
from measure.libpcache import MIB, ROOT
from support import wait_until
from test_limits import left, refused
from test_sweep_signals import hear_ctrl_c, running_in

SMALL = ["--mib", "16", "--range-mib", "64"]
ROUND = (r"round \d: drain \d+ MiB/s in \d+ writes, \d+ ksets, \d+ flushes; fio \d+ MiB/s in \d+; ratio \d+\.\d\d")


@pytest.fixture
def writeback(disk, shm):
    """Starts it over two folders of its own; what a test that fails leaves running is killed."""
    require_engine()
    started = []

    def writeback(*arguments, **env):
        line = [ROOT / "bench" / "writeback.py", "--dir", disk, "--shm", shm, *arguments]
        started.append(subprocess.Popen([*map(str, line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, **env}, preexec_fn=hear_ctrl_c))
        return started[-1]
    yield writeback
    for process in started:
        process.kill()
        process.communicate()


def test_it_measures(writeback, disk, shm):
    out, said = (process := writeback(*SMALL, "--rounds", 2)).communicate(timeout=400)
    assert process.returncode == 0 and said == "", said
    *rounds, last = out.splitlines()
    assert len(rounds) == 2 and all(re.fullmatch(ROUND, line) for line in rounds), out
    assert re.fullmatch(r"median ratio \d+\.\d\d of 2 \(\d+\.\d\d to \d+\.\d\d\)", last)
    assert left(disk, shm) == []


@pytest.mark.parametrize("arguments, text", [
    (["--rounds", "0"], "--rounds 0: expected 1 or more"),
    (["--mib", "0"], "--mib 0: expected 1 to 1536"),
    (["--mib", "1537"], "--mib 1537: expected 1 to 1536"),
    (["--range-mib", "1023"], "--range-mib 1023: expected --mib, 1024, or more"),
    (["--data-crc", "2"], "--data-crc 2: expected 0 or 1")])
def test_wrong_use(writeback, disk, shm, arguments, text):
    assert refused(writeback(*arguments), status=2) == f"writeback.py: error: {text}"
    assert left(disk, shm) == []


@pytest.mark.parametrize("odd", ["run #1: x", "a;b", "two  words\t"])
def test_folders_that_fio_would_take_for_others(writeback, disk, shm, odd):
    """Given with --dir and --shm behind the fixture's own: the last one counts."""
    for parent in (disk, shm):
        (parent / odd).mkdir()
        for cut in ("run", "run ", "run #1", "a", "two"):
            (parent / cut).write_text("precious")
    process = writeback(*SMALL, "--rounds", 1, "--dir", disk / odd, "--shm", shm / odd)
    out, said = process.communicate(timeout=400)
    assert process.returncode == 0 and said == "" and out, said
    for parent in (disk, shm):
        assert left(parent / odd) == []
        assert all(path.read_text() == "precious" for path in parent.iterdir() if path.name != odd)


@pytest.mark.parametrize("option", ["--dir", "--shm"])
def test_a_folder_that_is_not_there(writeback, disk, option):
    assert refused(writeback(*SMALL, option, disk / "no")) == f"writeback.py: {disk}/no: no such directory"


def test_a_folder_without_the_space(writeback, disk, shm):
    said = refused(writeback("--range-mib", 1 << 40))
    assert re.fullmatch(rf"writeback.py: {disk}: \d+ MiB are free, {1 << 40} are needed; see --dir, --shm, --range-mib",
                        said)
    assert left(disk, shm) == []


def test_without_fio_or_a_build(writeback, tmp_path):
    assert refused(writeback(*SMALL, PATH=str(tmp_path))) == "writeback.py: fio is missing: run scripts/setup"
    said = refused(writeback(*SMALL, PCACHE_BUILD=str(tmp_path)))
    assert said == f"writeback.py: {tmp_path}/lib/libpcache.so: build it, or set PCACHE_BUILD"


def test_what_fio_says_against_it_is_one_line(writeback, disk, shm, tmp_path):
    (tmp_path / "fio").write_text("#!/bin/sh\necho 'fio: no' >&2\necho 'fio: and why' >&2\nexit 1\n")
    (tmp_path / "fio").chmod(0o755)
    process = writeback(*SMALL, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert refused(process) == "writeback.py: fio: fio: no; fio: and why"
    assert left(disk, shm) == []


@pytest.mark.parametrize("how, status, text", [(signal.SIGINT, 130, "writeback.py: interrupted\n"),
                                               (signal.SIGTERM, 143, "writeback.py: terminated\n")])
def test_it_ends_when_told_and_leaves_nothing(writeback, disk, shm, how, status, text):
    process = writeback(*SMALL, "--rounds", 100000)
    wait_until(lambda: [path for path in shm.glob("*/cache") if path.stat().st_size == 2048 * MIB])
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status and said == text
    assert left(disk, shm) == []
    wait_until(lambda: running_in(disk) == [])  # SIGKILL has been sent; whom fio forked is no child of ours
