# SPDX-License-Identifier: GPL-2.0-or-later
"""bench/nbd.py: it measures, small; what it cannot do it says in one line; it cleans up."""

import os
import re
import shutil
import subprocess

import pytest

from fio import require_engine
from measure.libpcache import BUILD, ROOT
from test_limits import left, refused
from test_sweep_signals import hear_ctrl_c

SMALL = ["--mib", "16", "--seconds", "1", "--rounds", "1"]
pytestmark = pytest.mark.skipif(not shutil.which("nbdkit"), reason="nbdkit is missing: scripts/setup")


@pytest.fixture
def nbd(disk, shm):
    """Starts it over two folders of its own; what a test that fails leaves running is killed."""
    require_engine()
    started = []

    def nbd(*arguments, **env):
        line = [ROOT / "bench" / "nbd.py", "--dir", disk, "--shm", shm, *arguments]
        started.append(subprocess.Popen([*map(str, line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, **env}, preexec_fn=hear_ctrl_c))
        return started[-1]
    yield nbd
    for process in started:
        process.kill()
        process.communicate()


def test_it_measures(nbd, disk, shm):
    out, said = (process := nbd(*SMALL)).communicate(timeout=400)
    assert process.returncode == 0 and said == "", said
    head, *rows = out.splitlines()
    assert head.split("  ")[0] == "K requests/s, n 1" and len(rows) == 6
    ratio = r" +\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)"
    assert all(re.fullmatch(rf"(read|write)[a-z0-9, ]*?( +\d+\.\d){{3}}{ratio}{ratio}", row) for row in rows), out
    assert left(disk, shm) == []
    assert not subprocess.run(["pgrep", "-f", str(disk)], capture_output=True, check=False).stdout


@pytest.mark.parametrize("arguments, text", [
    (["--rounds", "0"], "--rounds 0: expected 1 to 100"),
    (["--seconds", "601"], "--seconds 601: expected 1 to 600"),
    (["--mib", "15"], "--mib 15: expected 16 to 4096")])
def test_wrong_use(nbd, disk, shm, arguments, text):
    assert refused(nbd(*arguments), status=2) == f"nbd.py: error: {text}"
    assert left(disk, shm) == []


def test_what_a_server_says_is_told(nbd, disk, shm):
    said = refused(nbd(*SMALL, "--cache-mode", "around"))
    assert said.startswith("nbd.py: nbdkit: has ended: ") and "cache_mode=around: expected" in said
    assert left(disk, shm) == []


def test_what_is_missing_is_named(nbd, tmp_path):
    for name in ("lib", "bin"):
        (tmp_path / name).symlink_to(BUILD / name)
    (tmp_path / "fio").symlink_to(shutil.which("fio"))
    (tmp_path / "python3").symlink_to("/usr/bin/python3")
    said = refused(nbd(*SMALL, PATH=str(tmp_path), PCACHE_BUILD=str(tmp_path)))
    assert said.startswith("nbd.py: nbdkit: cannot be run: No such file or directory; scripts/setup")
