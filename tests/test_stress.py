# SPDX-License-Identifier: GPL-2.0-or-later
"""stress-ng on file systems on a cache: some rounds of stress_rounds.py; with PCACHE_LONG=1 each file system with each
data_crc, gc_percent and cache_mode."""

import itertools
import os
import random

import pytest

import stress_rounds
from device_stack import Failed
from fs_rounds import FILE_SYSTEMS
from stress_rounds import AT_ONCE, STRESSORS, Keeper, Run

CASES = [("ext4", 0, 70, "writeback"), ("xfs", 1, 0, "writethrough"), ("btrfs", 1, 70, "writeback"),
         ("ext4", 0, 0, "writearound")]
ROUNDS, LONGEST = 1, 1.5
MODES = "writeback", "writethrough", "writearound", "writeonly", "passthrough"
if os.environ.get("PCACHE_LONG") == "1":
    CASES = list(itertools.product(FILE_SYSTEMS, (0, 1), (0, 70), MODES))
    ROUNDS, LONGEST = 2, 3


def run_of(fs, disk, shm, **options):
    why = stress_rounds.missing_for(fs)
    if why:
        pytest.skip(why)
    return Run(disk, shm, fs=fs, **options)


@pytest.mark.parametrize("fs,data_crc,gc_percent,cache_mode", CASES)
def test_what_is_fsynced_beside_stressors_outlives_kills(disk, shm, fs, data_crc, gc_percent, cache_mode):
    seed = CASES.index((fs, data_crc, gc_percent, cache_mode))
    run = run_of(fs, disk, shm, seed=seed, longest=LONGEST, data_crc=data_crc, gc_percent=gc_percent,
                 cache_mode=cache_mode)
    said = []
    assert run.rounds(ROUNDS, said.append) == ROUNDS, said


def test_what_stressors_find_is_noticed(disk, shm):
    """So the rounds can fail: the device fails while they run."""
    run = run_of("ext4", disk, shm)
    run.stack.server_arguments += ["--filter=error", "error-rate=100%", f"error-file={disk}/fail"]
    run.begin()
    try:
        run.start(["--hdd", "1", "--hdd-bytes", "16m", "--hdd-opts", "direct"], 1)
        (disk / "fail").touch()
        with pytest.raises(Failed, match="stress-ng --hdd 1 .*: exit status"):
            run.stressors.judge_end(60)
    finally:
        (disk / "fail").unlink()
        run.end()


def test_what_is_kept_is_judged(tmp_path):
    kept = Keeper(tmp_path / "kept", None)
    for number in range(4):
        kept.keep(number, 5000, number % 2)
    kept.judge()
    assert sorted(kept.kept) == ["0", "2", "renamed-1", "renamed-3"]
    (tmp_path / "kept/renamed-1").rename(tmp_path / "kept/1")
    with pytest.raises(Failed, match="renamed-1, which was fsynced with its directory: .*No such file"):
        kept.judge()
    (tmp_path / "kept/1").rename(tmp_path / "kept/renamed-1")
    os.truncate(tmp_path / "kept/2", 4096)
    with pytest.raises(Failed, match="2 has 4096 bytes, and not the 5000"):
        kept.judge()


def test_five_rounds_have_all_stressors(disk, shm):
    run, rng = run_of("ext4", disk, shm), random.Random(0)
    options = [word for _ in range(5) for word in run.next_options(rng)]
    assert len(STRESSORS) == 5 * AT_ONCE and {f"--{name}" for name in STRESSORS} <= set(options)
