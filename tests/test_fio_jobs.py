# SPDX-License-Identifier: GPL-2.0-or-later
"""fio's jobs through the cache: what is written is read, by fio's own verification."""

import json
import subprocess

import pytest

from fio import ENGINE, FIO, arguments, environment
from measure.libpcache import FUA, MIB
from support import PAGE, Pair, make_backing, peek, read_all, stamp, system_tool

NEVER = 3_600_000  # as writeback_interval_ms, where what is dirty is looked at: a loaded machine may take 5 s
SECTOR_SIZES = "512/20:1k/10:2k/10:4k/20:4608/10:16k/10:64k/10:256k/10"


def total(jobs, direction, field):
    return sum(job[direction][field] for job in jobs)


def test_randwrite_and_verify(fio):
    jobs = fio.run(rw="randwrite", bs="4k", size="8m", iodepth=16, verify="crc32c")
    assert total(jobs, "write", "io_bytes") == total(jobs, "read", "io_bytes") == 8 * MIB
    assert fio.stats["requests"]["writes"] == 2048
    assert fio.stats["requests"]["read_hits"] == 2048


@pytest.mark.parametrize("batch", [8, 32])
def test_batches(fio, batch):
    """fio submits what is hits, misses and flushes together; a part of the last batch is left at the end."""
    together = dict(bs="4k", iodepth=32, iodepth_batch=batch)
    jobs = fio.run(rw="randwrite", size="4100k", fsync=50, verify="crc32c", **together)
    assert total(jobs, "write", "total_ios") == total(jobs, "read", "total_ios") == 1025
    assert fio.stats["requests"]["flushes"] >= 1025 // 50
    job, = fio.run(rw="randread", size="8m", **together)
    assert job["read"]["total_ios"] == 2048 and fio.stats["requests"]["read_hits"] == 1025
    assert fio.stats["requests"]["read_misses"] == 1023
    levels = job["iodepth_level"]
    assert levels["32"] > 50, levels
    assert job["read"]["slat_ns"]["N"] == 2048, "fio keeps its own statistics of submission"
    assert sum(job["iodepth_submit"].values()) > 99 and sum(job["iodepth_complete"].values()) > 99


@pytest.mark.parametrize("data_crc", [0, 1])
def test_mixed_sizes_two_jobs_and_reopen(fio, data_crc):
    """The demo's job, small: 512 B to 256 KiB, iodepth 16, two jobs; then verified by a new process."""
    options = dict(rw="randwrite", bssplit=SECTOR_SIZES, bsrange=None, size="7m", offset_increment="8m",
                   iodepth=16, numjobs=2, verify="crc32c", randrepeat=1, data_crc=data_crc,
                   verify_fatal=1, verify_state_save=0, writeback_interval_ms=NEVER)
    done = fio.start(**options)  # fio notes on stdout that verify and numjobs meet: the JSON begins at "{"
    assert done.returncode == 0, done.stderr + done.stdout
    jobs = json.loads(done.stdout[done.stdout.index("\n{") if not done.stdout.startswith("{") else 0:])["jobs"]
    written = total(jobs, "write", "io_bytes")
    assert written >= 2 * 6 * MIB and total(jobs, "read", "io_bytes") == written
    again = fio.start(**{**options, "verify_only": True})
    assert again.returncode == 0, again.stderr + again.stdout
    assert fio.stats["replay"]["dirty_bytes"] >= written
    assert fio.stats["requests"]["reads"] > 0 and fio.stats["events"]["fills"] == 0


def test_verify_finds_a_flipped_byte(fio, pair):
    """The tests above can fail."""
    options = dict(rw="write", bs="4k", size="1m", verify="crc32c", verify_state_save=0)
    fio.run(**options)
    with pair.open() as cache:
        data = bytearray(cache.read(100 * PAGE, PAGE))
        data[2000] ^= 1
        cache.write(100 * PAGE, bytes(data), flags=FUA)
    done = fio.start(**{**options, "rw": "read"})
    assert done.returncode != 0 and "verify" in done.stderr


def test_written_data_is_what_the_library_reads(fio, pair):
    fio.run(rw="write", bs="64k", size="4m", offset="2m", buffer_pattern='"abcdefgh"', writeback_interval_ms=NEVER)
    with pair.open(writeback_interval_ms=NEVER) as cache:
        assert read_all(cache) == stamp(0, 2 * MIB, 0) + b"abcdefgh" * (MIB // 2) + \
            stamp(6 * MIB, 10 * MIB, 0)
    assert peek(pair.backing_path, 2 * MIB, PAGE) == stamp(2 * MIB, PAGE, 0), "not written through"


def test_reads_of_what_was_never_written(fio):
    """Reads come from the backing device, once."""
    fio.run(rw="write", bs="64k", size="8m", verify="crc32c", verify_state_save=0, do_verify=0)
    jobs = fio.run(rw="read", bs="64k", size="16m")
    assert total(jobs, "read", "io_bytes") == 16 * MIB
    assert fio.stats["events"]["fill_bytes"] == 8 * MIB
    fio.run(rw="randread", bs="4k", size="16m")
    assert fio.stats["events"]["fills"] == 0 and fio.stats["requests"]["read_hits"] == 4096


@pytest.mark.parametrize("io_mode", ["auto", "threads"])
def test_iodepth_32_is_reached_on_misses(fio, io_mode):
    job, = fio.run(rw="randread", bs="4k", size="16m", iodepth=32, io_mode=io_mode)
    assert job["read"]["total_ios"] == 4096
    assert fio.stats["requests"]["read_misses"] == 4096
    # How often it is reached depends on how many have completed when fio comes to look. It looks when 32 are in flight.
    levels = job["iodepth_level"]
    assert levels["32"] > 0, levels


def test_json_on_stdout_is_all_there_is(fio):
    done = fio.start(rw="randrw", bs="4k", size="2m")
    assert done.returncode == 0
    assert json.loads(done.stdout)["jobs"][0]["jobname"] == "job"
    assert all(line.startswith("pcache: ") for line in done.stderr.splitlines()), done.stderr
    assert "power loss" in done.stderr


def test_stonewalled_jobs_share_one_cache(fio):
    """The second job starts when the first has ended: the cache stays open between them."""
    jobs = fio.run({"name": "one", "rw": "write", "bs": "4k", "size": "4m"},
                   {"name": "two", "rw": "read", "bs": "4k", "size": "4m", "stonewall": True})
    assert len(jobs) == 2
    stats = fio.stats
    assert stats["requests"]["writes"] == stats["requests"]["read_hits"] == 1024
    assert stats["replay"]["keys"] == 0, "it was reopened"


def test_loops_and_several_jobs(fio):
    jobs = fio.run(rw="randrw", bs="4k", size="2m", loops=3, numjobs=4, iodepth=8)
    assert len(jobs) == 4
    assert total(jobs, "read", "total_ios") + total(jobs, "write", "total_ios") == 4 * 3 * 512


def test_time_based(fio):
    """The job begins anew at its end. A machine that is busy takes longer to come to it."""
    for runtime in (1, 5, 60):
        job, = fio.run(rw="randread", bs="4k", size="1m", runtime=runtime, time_based=True, iodepth=4)
        if job["read"]["total_ios"] > 256:
            return
    pytest.fail("it has ended after its 256 blocks")


def test_ld_preload(fio, pair):
    """ioengine=pcache, the library preloaded."""
    command = [FIO, "--output-format=json", "--name=job"] + arguments(
        {**fio.engine_options(ioengine="pcache"), "rw": "randwrite", "bs": "4k", "size": "4m", "verify": "crc32c",
         "iodepth": 16})
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=fio.folder,
                          env=environment(LD_PRELOAD=str(ENGINE)), timeout=400)
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["jobs"][0]["write"]["total_ios"] == 1024
    assert fio.stats["requests"]["writes"] == 1024


def test_two_pairs_side_by_side(fio, pair, shm, disk):
    second = Pair(shm / "second", make_backing(disk / "second", 8 * MIB))
    job = {"rw": "randwrite", "bs": "4k", "size": "6m", "verify": "crc32c", "iodepth": 8}
    jobs = fio.run({"name": "a", **job},
                   {"name": "b", **job, "filename": second.backing_path, "cache_dev": second.cache_path,
                    "cache_size": "512m", "stats_file": disk / "second.json", "data_crc": 1})
    assert [j["write"]["io_bytes"] for j in jobs] == [6 * MIB] * 2
    assert json.loads((disk / "second.json").read_text())["requests"]["writes"] == 1536
    assert fio.stats["requests"]["writes"] == 1536
    with pair.open() as one, second.open() as two:
        assert (one.info.data_crc, two.info.data_crc) == (0, 1)
        assert one.read(6 * MIB, 10 * MIB) == stamp(6 * MIB, 10 * MIB, 0)
        assert two.read(6 * MIB, 2 * MIB) == stamp(6 * MIB, 2 * MIB, 0)


def test_full_cache_is_no_error(fio):
    """Three times the cache; and with drain=1 nothing is dirty in the end."""
    fio.run(rw="write", bs="1m", size="16m", loops=100, drain=1)
    assert fio.stats["requests"]["errors"] == 0
    assert fio.stats["reclaim"]["ksets"] > 0
    assert fio.stats["dirty"] == {"ksets": 0, "bytes": 0, "live_bytes": 0}


@pytest.mark.damages_image
def test_loop_device(fio, pair, disk):
    """A block device as backing device, where loop devices are permitted."""
    losetup = system_tool("losetup", "mount")
    made = subprocess.run([losetup, "--find", "--show", "--direct-io=on", str(pair.backing_path)],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"losetup is not permitted here: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        fio.run(rw="randwrite", bs="4k", size="8m", iodepth=16, verify="crc32c", filename=device)
        fio.run(rw="randread", bs="4k", size="16m", iodepth=32, filename=device)
    finally:
        subprocess.run([losetup, "--detach", device], check=True)
