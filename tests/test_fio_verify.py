# SPDX-License-Identifier: GPL-2.0-or-later
"""fio's verification finds right data right, and its iolog holds what was issued.

fio 3.33 draws a seed for a write and enters it in its iolog before it submits it. An engine that answers "busy" makes
it do both again: verification then reports good data as corrupt, and the log holds requests that were never made.
Left out is what fio gets wrong by itself, as its psync engine shows: reads and writes mixed without a random map.
"""

import itertools
import json

import pytest

from measure.libpcache import MIB
from support import PAGE

REGION = 128 << 10
MIXES = [{"rw": "randrw"}, {"rw": "rw"}, {"rw": "randrw", "rwmixread": 80}, {"rw": "randrw", "rwmixread": 20},
         {"rw": "rw", "bsrange": "512-16k"}, {"rw": "write", "bs": "8k"}, {"rw": "randwrite"}]
METHODS = [{"verify": "crc32c"}, {"verify": "md5"}, {"verify": "meta"}, {"verify": "xxhash", "verify_interval": 512},
           {"verify": "pattern", "verify_pattern": "%o"}, {"verify": "sha1", "verify_backlog": 8}]
DEPTHS = [1, 2, 3, 4, 8, 16, 32]


def warm(pair, every):
    """Puts each `every`th page of the device into the cache."""
    with pair.open() as cache:
        for off in range(0, 16 * MIB, every * PAGE):
            cache.read(off, PAGE)


def logged(path, direction):
    """Requests of one direction in an iolog."""
    return sum(line.split()[2] == direction for line in path.read_text().splitlines()[1:])


def check_logs(jobs, folder):
    for job in jobs:
        path = folder / f"{job['jobname']}.log"
        for direction in ("read", "write"):
            issued = job[direction]["total_ios"]
            assert logged(path, direction) == issued, f"{job['jobname']}: {direction}s issued: {issued}"


def all_mixes(folder):
    for number, (mix, method) in enumerate(itertools.product(MIXES, METHODS)):
        name = f"{number}-{mix['rw']}-{method['verify']}"
        yield {"name": name, **mix, **method, "offset": number * REGION, "write_iolog": folder / f"{name}.log"}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("every", [0, 2, 1], ids=["cold", "half_warm", "hot"])
def test_each_mix_and_method(fio, pair, disk, every, depth):
    """Many threads at once, each in a region of its own."""
    if every:
        warm(pair, every)
    done = fio.start(*all_mixes(disk), bs="4k", size=REGION, iodepth=depth, verify_fatal=1, verify_state_save=0)
    assert done.returncode == 0 and "verify:" not in done.stderr, done.stderr
    jobs = json.loads(done.stdout[done.stdout.index("{"):])["jobs"]
    assert len(jobs) == len(MIXES) * len(METHODS)
    assert all(job["error"] == 0 and job["write"]["total_ios"] > 0 for job in jobs)
    check_logs(jobs, disk)


@pytest.mark.parametrize("options", [
    dict(iodepth_batch=8, iodepth_batch_complete_max=16), dict(iodepth_batch=16, thinktime=10, thinktime_blocks=100),
    dict(iodepth_low=4), dict(fsync=7), dict(write_barrier=5), dict(serialize_overlap=0, rate_iops=2000)], ids=str)
def test_each_way_of_reaping(fio, pair, disk, options):
    """Depth 16, where half of the requests are hits; in regions that are hot at first, then cold."""
    with pair.open() as cache:
        for off in [*range(0, 2 * MIB, PAGE), *range(2 * MIB, 4 * MIB, 2 * PAGE)]:
            cache.read(off, PAGE)
    jobs = fio.run(rw="randrw", bs="4k", size="8m", iodepth=16, verify="crc32c", verify_fatal=1,
                   verify_state_save=0, write_iolog=disk / "job.log", **options)
    check_logs(jobs, disk)


@pytest.mark.parametrize("depth", [2, 16])
def test_hits_after_a_miss_are_completed_at_once_again(fio, pair, disk, depth):
    """Depth 1 is what is true of hits: with one miss at the start, they must not queue behind each other for ever.
    How many do meanwhile is the device's affair: in fio's log, in order of completion, they stand before it."""
    with pair.open() as cache:
        cache.read(PAGE, 16 * MIB - PAGE)
    job, = fio.run(rw="read", bs="4k", size="16m", iodepth=depth, write_lat_log=disk / "job", log_offset=1,
                   log_entries=8192)  # in a log that is full sooner, fio would empty its queue to make it larger
    assert fio.stats["requests"]["read_misses"] == 1
    assert job["read"]["total_ios"] == 4096
    completed = [int(line.split(",")[4]) for line in (disk / "job_lat.1.log").read_text().splitlines()]
    assert sorted(completed) == [*range(0, 16 * MIB, PAGE)]
    meanwhile = completed.index(0)
    queued = round((100 - job["iodepth_level"]["1"]) * 4096 / 100)
    assert queued <= meanwhile + 2 * depth, job["iodepth_level"]
