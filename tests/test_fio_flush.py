# SPDX-License-Identifier: GPL-2.0-or-later
"""fsync, fdatasync, sync=1 and end_fsync reach the cache as FLUSH and FUA, and mean it."""

import subprocess

import pytest

from fio import environment
from measure.libpcache import MIB
from support import SECTOR, read_all, stamp, wait_until

PATTERN = b"abcdefgh"


@pytest.mark.parametrize("kind", ["fsync", "fdatasync"])
def test_syncs_are_flushes(fio, kind):
    job, = fio.run(rw="write", bs="4k", size="1m", flush_delay_ms=60000, **{kind: 8})
    stats = fio.stats
    syncs = stats["requests"]["flushes"]
    assert syncs in (256 // 8 - 1, 256 // 8)  # fio leaves out the one behind the last write
    if kind == "fsync":  # fio 3.33 does not count the other kind
        assert job["sync"]["total_ios"] == syncs
    assert stats["log"]["ksets"] >= syncs, "a flush closed no kset"


def test_end_fsync_is_a_flush(fio):
    fio.run(rw="write", bs="4k", size="256k", end_fsync=1, flush_delay_ms=60000)
    assert fio.stats["requests"]["flushes"] == 1
    assert fio.stats["log"]["open_keys"] == 0


def test_without_fsync_there_is_no_flush(fio):
    fio.run(rw="write", bs="4k", size="256k", flush_delay_ms=60000)
    assert fio.stats["requests"]["flushes"] == 0
    assert fio.stats["log"]["open_keys"] == 64


@pytest.mark.parametrize("value", ["1", "sync", "dsync"])
def test_sync_is_fua(fio, value):
    fio.run(rw="randwrite", bs="4k", size="1m", sync=value)
    requests = fio.stats["requests"]
    assert requests["fua_writes"] == requests["writes"] == 256
    assert fio.stats["log"]["ksets"] == 256


def test_write_barrier_is_a_preflush(fio):
    fio.run(rw="write", bs="4k", size="256k", write_barrier=16, flush_delay_ms=60000)
    assert fio.stats["log"]["ksets"] >= 3


# ---- SIGKILL ----

def killed_in_second_job(fio, first, second):
    """Runs two jobs one after the other and kills fio when the second has begun."""
    begun = fio.folder / "begun"
    command = fio.command(
        {"name": "first", **first},
        {"name": "second", "stonewall": True, "exec_prerun": f"touch {begun}", **second},
        flush_delay_ms=60000, stats_file=None)
    with subprocess.Popen(command, cwd=fio.folder, env=environment(), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        try:
            wait_until(lambda: begun.exists() or process.poll() is not None)
            assert process.poll() is None, process.stdout.read().decode()
        finally:
            process.kill()
            process.wait()


FIRST = {"rw": "randwrite", "bs": "4k", "size": "256k", "buffer_pattern": '"abcdefgh"'}
SECOND = {"rw": "randwrite", "bs": "512", "size": "4m", "offset": "8m", "time_based": True, "runtime": 100,
          "buffer_pattern": '"ABCDEFGH"', "iodepth": 4, "rate_iops": 500}


@pytest.mark.parametrize("how", [{"end_fsync": 1}, {"fsync": 1}, {"fdatasync": 4, "end_fsync": 1}, {"sync": 1}],
                         ids=str)
@pytest.mark.parametrize("data_crc", [0, 1])
@pytest.mark.kills
def test_synced_data_survives_sigkill(fio, pair, how, data_crc):
    killed_in_second_job(fio, {**FIRST, **how, "data_crc": data_crc}, {**SECOND, "data_crc": data_crc})
    with pair.open() as cache:
        content = read_all(cache)
    lost = [at for at in range(0, 256 * 1024, 4096) if content[at:at + 4096] != PATTERN * 512]
    assert len(lost) <= (1 if how == {"fsync": 1} else 0), "fio leaves out the fsync behind the last write"
    assert all(content[at:at + 4096] == stamp(at, 4096, 0) for at in lost)
    assert content[256 * 1024:8 * MIB] == stamp(256 * 1024, 8 * MIB - 256 * 1024, 0)
    for at in range(8 * MIB, 12 * MIB, SECTOR):  # what the second job wrote: old or new
        assert content[at:at + SECTOR] in (PATTERN.upper() * 64, stamp(at, SECTOR, 0)), f"at {at}"


@pytest.mark.kills
def test_data_that_was_not_synced_may_be_lost(fio, pair):
    """The test above can fail: fewer keys than a kset holds, and no flush."""
    killed_in_second_job(fio, FIRST, {**SECOND, "rw": "randread"})
    with pair.open() as cache:
        assert cache.read(0, 256 * 1024) == stamp(0, 256 * 1024, 0)


@pytest.mark.kills
def test_fio_goes_on_after_sigkill(fio, pair):
    """Killed, started again, verified: several times over what the kill before has left."""
    for round_ in range(3):
        killed_in_second_job(fio, {"rw": "randwrite", "bs": "4k", "size": "2m", "fsync": 16, "end_fsync": 1,
                                   "verify": "crc32c", "do_verify": 0, "verify_state_save": 0}, SECOND)
        fio.run(rw="randread", bs="4k", size="2m", verify="crc32c", verify_state_save=0)
        assert fio.stats["requests"]["reads"] == 512, round_
