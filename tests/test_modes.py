# SPDX-License-Identifier: GPL-2.0-or-later
"""cache_mode: when a write is acknowledged, what becomes of it, whether misses are cached; and changing it."""

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from measure.libpcache import DISCARD, FUA, MIB, WRITE, WRITE_ZEROES, PcacheError, Request
from support import PAGE, read_all, stamp, wait_until

NEVER = {"writeback_interval_ms": 3_600_000, "flush_delay_ms": 60_000}
# mode: acknowledged on the backing device, kept, misses are cached
MODES = {
    "writeback": (False, True, True),
    "writethrough": (True, True, True),
    "writearound": (True, False, True),
    "writeonly": (False, True, False),
    "passthrough": (True, False, False),
}
ON_DEVICE = [mode for mode, answers in MODES.items() if answers[0]]


def on_disk(pair, off, length):
    """What the backing file alone holds."""
    with open(pair.backing_path, "rb") as f:
        f.seek(off)
        return f.read(length)


def hits(cache, off, length=PAGE):
    before = cache.status["requests"]["read_hits"]
    cache.read(off, length)
    return cache.status["requests"]["read_hits"] - before


@pytest.mark.parametrize("data_crc", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_each_mode(pair, mode, data_crc):
    on_device, keeps, fills = MODES[mode]
    before = on_disk(pair, 0, PAGE)
    with pair.open(cache_mode=mode, data_crc=data_crc, **NEVER) as cache:
        assert cache.status["cache"]["mode"] == mode
        for flags, off in ((0, 0), (FUA, PAGE), (0, 4 * MIB - PAGE)):
            data = stamp(off, 3 * PAGE, 7)
            cache.write(off, data, flags=flags)
            assert (on_disk(pair, off, len(data)) == data) == on_device
            assert all(("c" in extent[2]) == keeps for extent in cache.map(off, len(data)))
            assert cache.read(off, len(data)) == data
        assert hits(cache, 0) == int(keeps or fills)
        assert hits(cache, 8 * MIB) == 0, "of the backing device"
        assert hits(cache, 8 * MIB) == int(fills)
        assert cache.status["dirty"]["live_bytes"] == 0 or not on_device
        timed = cache.status["latency"]["write_through"]["count"]
        assert timed == (3 if on_device else 0)
    if not on_device:
        assert on_disk(pair, 0, PAGE) == before
    with pair.open() as cache:
        assert cache.status["cache"]["mode"] == mode, "it is kept on the media"
        assert cache.read(4 * MIB - PAGE, 3 * PAGE) == stamp(4 * MIB - PAGE, 3 * PAGE, 7)


@pytest.mark.parametrize("mode", ON_DEVICE)
@pytest.mark.parametrize("op", [DISCARD, WRITE_ZEROES])
def test_zeros_are_on_the_device_too(pair, mode, op):
    with pair.open(cache_mode=mode, **NEVER) as cache:
        cache.write(0, stamp(0, 2 * MIB, 3))
        cache.zero(PAGE, MIB, op=op)
        assert on_disk(pair, PAGE, MIB) == bytes(MIB)
        assert on_disk(pair, 0, PAGE) == stamp(0, PAGE, 3)
        assert cache.read(0, 2 * MIB) == stamp(0, PAGE, 3) + bytes(MIB) + stamp(PAGE + MIB, MIB - PAGE, 3)


@pytest.mark.parametrize("mode", MODES)
def test_overlapping_requests_in_flight_are_in_order(pair, mode):
    """The order of submission: every read sees the newest of the writes submitted before it, and so does the disk."""
    rng = random.Random(mode)
    region = 64 * PAGE
    content = bytearray(on_disk(pair, 0, region))
    with pair.open(cache_mode=mode) as cache:
        for tag in range(1, 30):
            in_flight = []
            for _ in range(24):
                length = rng.choice([512, PAGE, 3 * PAGE, 16 * PAGE])
                off = rng.randrange(0, region - length + 1, 512)
                op = rng.choice([WRITE, WRITE, WRITE, DISCARD])
                data = stamp(off, length, tag) if op == WRITE else bytes(length)
                request = Request(op, off, data) if op == WRITE else Request(op, off, length=length)
                content[off:off + length] = data
                if not cache.queue.submit(request):
                    in_flight.append(request)
                assert cache.read(off, length) == data, "by another request of the queue"
            while cache.queue.in_flight:
                cache.queue.reap()
            assert all(request.result == 0 for request in in_flight)
            if MODES[mode][0]:
                assert on_disk(pair, 0, region) == content
        assert cache.read(0, region) == content
        cache.drain()
    assert on_disk(pair, 0, region) == content


def test_a_change_holds_at_once_and_is_kept(pair):
    with pair.open(**NEVER) as cache:
        for number, mode in enumerate([*MODES, *reversed(MODES), "writethrough"]):
            cache.set("cache_mode", mode)
            off = number * MIB
            cache.write(off, stamp(off, PAGE, number))
            assert cache.status["cache"]["mode"] == mode
            assert not MODES[mode][0] or on_disk(pair, off, PAGE) == stamp(off, PAGE, number)
        wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)  # also of the modes before
        with pytest.raises(PcacheError, match="cache_mode=around: expected"):
            cache.set("cache_mode", "around")
        cache.set("cache_mode", "media")
        assert cache.status["cache"]["mode"] == "writethrough"
    with pair.open() as cache:
        assert cache.status["cache"]["mode"] == "writethrough"
    with pytest.raises(PcacheError, match="option cache_mode: contradicts readonly=1"):
        pair.open(readonly=1, cache_mode="writeback")
    with pair.open(readonly=1) as cache:
        assert cache.status["cache"]["mode"] == "writethrough"
        with pytest.raises(PcacheError, match="readonly"):
            cache.set("cache_mode", "writeback")


def test_changes_beside_many_writers(pair):
    """Each thread in a range of its own; what a thread wrote in a mode that waits is on the disk when it is told so."""
    pages, threads = 64, 4
    stop = threading.Event()
    failures = []
    with pair.open(cache_mode="writeback") as cache:
        def writer(number):
            queue = cache.new_queue()
            tag = 0
            try:
                while not stop.is_set():
                    tag += 1
                    for page in range(pages):
                        off = (number * pages + page) * PAGE
                        queue.write(off, stamp(off, PAGE, tag))
                        assert queue.read(off, PAGE) == stamp(off, PAGE, tag)
                off = number * pages * PAGE
                cache.set("cache_mode", "writethrough")
                queue.write(off, stamp(off, PAGE, 1000))
                assert on_disk(pair, off, PAGE) == stamp(off, PAGE, 1000)
            except Exception as error:  # to the thread that judges
                failures.append(error)
            finally:
                queue.close()

        workers = [threading.Thread(target=writer, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        rng = random.Random(5)
        for _ in range(300):
            cache.set("cache_mode", rng.choice(list(MODES)))
        stop.set()
        for worker in workers:
            worker.join()
        assert not failures
        content = read_all(cache)
        cache.drain()
    assert pair.backing_path.read_bytes() == content


CHILD = """
import json, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
from measure.libpcache import Cache
from support import PAGE, stamp
cache = Cache(*sys.argv[2:4], emulate_pmem=1, cache_mode=sys.argv[4])
for number in range(10**6):
    off = number % 2048 * PAGE
    cache.write(off, stamp(off, PAGE, number // 2048 + 1))
    print(number, flush=True)
"""


@pytest.mark.parametrize("mode", ON_DEVICE)
def test_the_disk_alone_has_it_when_the_cache_is_lost(pair, mode):
    """Killed, and the cache's memory gone: what was acknowledged is on the disk."""
    child = subprocess.Popen(
        [sys.executable, "-B", "-c", CHILD, json.dumps(sys.path), str(pair.cache_path), str(pair.backing_path), mode],
        stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if int(line) >= 200:
            break
    child.send_signal(signal.SIGKILL)
    last = max([200, *(int(line) for line in child.stdout if line.endswith("\n"))])
    child.wait()
    Path(pair.cache_path).unlink()
    for number in range(last + 1):
        off = number * PAGE
        assert on_disk(pair, off, PAGE) == stamp(off, PAGE, 1), f"of {last + 1} acknowledged writes"


# ---- The tools and front ends ----

def test_offline(ctl, pair):
    pair.open().close()
    told = ctl.json("set", pair.cache_path, "cache_mode", "writearound")
    assert told == {"cache_mode": "writearound", "before": "writeback"}
    assert ctl.run("set", pair.cache_path, "cache_mode", "passthrough").stdout == (
        "cache_mode: passthrough (was writearound)\n")
    assert ctl.json("status", pair.cache_path)["cache_mode"] == "passthrough"
    assert ", passthrough\n" in ctl.run("status", pair.cache_path).stdout
    assert "cache_mode=sideways: expected" in ctl.refused("set", pair.cache_path, "cache_mode", "sideways")
    assert "what the media says already" in ctl.refused("set", pair.cache_path, "cache_mode", "media")
    with pair.open() as cache:
        assert cache.status["cache"]["mode"] == "passthrough"
        assert ctl.run("set", pair.cache_path, "cache_mode", "writethrough").stdout == "cache_mode: writethrough\n"
        cache.write(0, stamp(0, PAGE, 9))
        assert on_disk(pair, 0, PAGE) == stamp(0, PAGE, 9)
        assert ", writethrough" in ctl.run("status", pair.cache_path).stdout
    ctl.run("check", pair.cache_path, "--backing", pair.backing_path)


def test_a_new_cache_may_have_it(ctl, pair):
    told = ctl.json("format", pair.cache_path, "--force", "--cache-mode", "writeonly")
    assert told["cache_mode"] == "writeonly"
    with pair.open() as cache:
        assert cache.status["cache"]["mode"] == "writeonly"


def test_the_kernel_is_given_its_only_mode(ctl, pair):
    """Its constructor takes writeback alone; the image's own mode is not looked at there."""
    pair.open(cache_mode="writethrough").close()
    line = ctl.run("table", pair.cache_path, "--backing", pair.backing_path).stdout
    assert line.rstrip().endswith("4 cache_mode writeback data_crc false")


@pytest.mark.parametrize("mode", ON_DEVICE)
def test_by_fio(fio, pair, mode):
    fio.run(rw="randwrite", bs="4k", size="4m", iodepth=16, buffer_pattern='"abcdefgh"', cache_mode=mode)
    assert on_disk(pair, 0, 4 * MIB) == b"abcdefgh" * (MIB // 2), "without a drain"
    assert fio.stats["cache"]["mode"] == mode
    fio.run(rw="randrw", bs="4k", size="8m", iodepth=16, verify="crc32c", verify_fatal=1, verify_state_save=0)
