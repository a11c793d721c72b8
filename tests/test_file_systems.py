# SPDX-License-Identifier: GPL-2.0-or-later
"""Real file systems on a cache, by nbdkit, nbdfuse and a loop device: some rounds of fs_rounds.py."""

import numpy as np
import pytest

import fs_rounds
from device_stack import Failed, missing
from fs_rounds import DONE, FSYNC, PUNCH, TRUNCATE, WRITE, Promise, data_of

CASES = [("ext4", dict(data_crc=0, gc_percent=70, discard=1)), ("ext4", dict(data_crc=1, gc_percent=0, discard=0)),
         ("xfs", dict(data_crc=1, gc_percent=70, discard=1, backing_order="relaxed")),
         ("btrfs", dict(data_crc=0, gc_percent=0, discard=1))]


def run_of(fs, disk, shm, **options):
    why = missing() or fs_rounds.missing_for(fs)
    if why:
        pytest.skip(why)
    return fs_rounds.Run(disk, shm, fs=fs, longest=1.5, **options)


@pytest.mark.parametrize("fs,options", CASES, ids=str)
def test_what_is_fsynced_outlives_kills(disk, shm, fs, options):
    said = []
    assert run_of(fs, disk, shm, **options).rounds(3, said.append) == 3, said


def test_a_cache_that_has_lost_all_is_noticed(disk, shm):
    """So the rounds can fail: the cache is empty when the server comes again."""
    run = run_of("ext4", disk, shm)
    try:
        with pytest.raises((Failed, OSError)):
            for _ in range(3):  # one kill may come before the first fsync
                run.step(between=(shm / "cache").unlink)
    finally:
        run.end()


def test_the_judge():
    promise = Promise(np.zeros(0, dtype=np.uint8))
    promise.note(DONE, WRITE, 0, 4096, 1)
    promise.note(DONE, FSYNC, 0, 0, 2)
    promise.note(DONE, WRITE, 1024, 1024, 3)
    synced, newer = data_of(1, 0, 4096), data_of(3, 1024, 1024)
    for part in (0, 100, 1024):  # each byte may be as it was, or as it was written
        got = synced.copy()
        got[1024:1024 + part] = newer[:part]
        promise.judge("f", got)
    lost = synced.copy()
    lost[:512] = 0
    for wrong, words in ((synced[:4000], "4000 bytes, expected 4096"), (data_of(7, 0, 4096), "byte 0 is"),
                         (lost, "byte 0 is 0")):
        with pytest.raises(Failed, match=words):
            promise.judge("f", wrong)
    promise.note(DONE, TRUNCATE, 512, 0, 4)
    cut = synced.copy()
    cut[512:] = 0  # and grown again
    promise.note(DONE, TRUNCATE, 4096, 0, 5)
    promise.judge("f", cut)
    with pytest.raises(Failed, match="byte 0 is 0"):
        promise.judge("f", lost)
    promise.note(DONE, TRUNCATE, 512, 0, 5)
    promise.note(DONE, PUNCH, 0, 512, 5)
    promise.judge("f", np.zeros(512, dtype=np.uint8))
    promise.judge("f", synced)
    promise.note(DONE, FSYNC, 0, 0, 6)
    with pytest.raises(Failed, match="4096 bytes, expected 512 to 512"):
        promise.judge("f", synced)
