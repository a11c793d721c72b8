# SPDX-License-Identifier: GPL-2.0-or-later
"""persist=auto: measured once, remembered, said; other methods are taken as they are."""

import json
import os
import struct
import subprocess

import pytest

from measure.libpcache import BUILD, MIB
from support import CACHE_BYTES, copy_sparse, digest, patch, peek, sealed, stamp, system_tool

PERSIST_RECORD = 1024
MEASURED = "persist=auto: measured on this memory: 512 B "


def said(cache):
    return [line for _, line in cache.log if line.startswith("persist=auto")]


def test_it_is_measured_once_and_remembered(pair):
    with pair.open() as cache:
        (line,) = said(cache)
        assert line.startswith(MEASURED) and "; 4 KiB " in line and "; 64 KiB " in line
        first = cache.status["cache"]
        assert set(first["persist_ns"]["flushcache"]) == {"512", "4096", "16384", "65536"}
        assert first["persist"] in {*first["persist_ns"], "by size"}
        cache.write(0, stamp(0, MIB, 1))
    with pair.open() as cache:
        assert said(cache) == []
        again = cache.status["cache"]
        assert again | {"huge_bytes": 0} == first | {"huge_bytes": 0}, "pages are made meanwhile"
        assert cache.read(0, MIB) == stamp(0, MIB, 1)


@pytest.mark.parametrize("slower", [0, 1])
def test_methods_are_chosen_by_size(pair, slower):
    """From what is remembered: one method for the shorter two sizes, another or the same for the longer two."""
    with pair.open() as cache:
        measured = list(cache.status["cache"]["persist_ns"])
    if len(measured) < 2:
        pytest.skip(f"this CPU has {measured[0]} alone")
    record = bytearray(peek(pair.cache_path, PERSIST_RECORD, 112))
    for number, method in enumerate(("flushcache", "clflushopt", "clwb", "movdir64b")):
        ns = [0] * 4 if method not in measured else [500] * 4
        if method in measured[:2]:
            ns = [100, 100, 200, 200] if method == measured[0] else [300, 300, 100 + 200 * slower, 100 + 200 * slower]
        struct.pack_into("<4I", record, 40 + 16 * number, *ns)
    patch(pair.cache_path, PERSIST_RECORD, sealed(bytes(record)))
    with pair.open() as cache:
        assert said(cache) == [], "measured again"
        assert cache.status["cache"]["persist"] == cache.info.persist.decode() == (
            measured[0] if slower else "by size")
        cache.write(0, stamp(0, MIB, 1))
        assert cache.read(0, MIB) == stamp(0, MIB, 1)


def test_damaged_it_is_measured_again(pair):
    with pair.open():
        pass
    with open(pair.cache_path, "r+b") as file:
        file.seek(PERSIST_RECORD + 40)
        file.write(b"\xff" * 8)
    with pair.open() as cache:
        assert len(said(cache)) == 1
    with pair.open() as cache:
        assert said(cache) == []


def test_a_method_that_is_named_is_taken(pair):
    with pair.open(persist="flushcache") as cache:
        assert said(cache) == [] and cache.status["cache"]["persist"] == "flushcache"
        assert "persist_ns" not in cache.status["cache"]


def test_the_bound_says_when_it_could_not_measure(fio, disk):
    """As the cache does, so that nobody takes flushcache for what was the fastest."""
    scratch = disk / "scratch"
    def said(size):
        done = fio.start(ioengine=f"external:{BUILD}/lib/libpcache_raw.so", stats_file=None, prefault=None,
                         cache_dev=scratch, cache_size=size, rw="write", bs="4k", size="64k")
        assert done.returncode == 0, done.stderr
        return [line for line in done.stderr.splitlines() if "persist" in line]
    assert said(MIB) == [f"pcache: persist=auto: not measured: cache device {scratch}: has {MIB} bytes, too few to "
                         "measure on"]
    assert said(8 * MIB) == []


def test_calibrate_says_and_remembers(pair, ctl):
    with pair.open(persist="flushcache") as cache:
        cache.write(0, stamp(0, MIB, 1))
    done = ctl.run("calibrate", pair.cache_path)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["ns", "512", "bytes", "4", "KiB", "16", "KiB", "64", "KiB"]
    assert lines[1].startswith("flushcache") and lines[-1].startswith("* persist=auto")
    assert sum(line.count("*") for line in lines[1:-1]) == 4, "one method for each size"
    report = json.loads(ctl.run("calibrate", pair.cache_path, "--json").stdout)
    assert report["remembered"] and set(report["chosen"]) == {"512", "4096", "16384", "65536"}
    with pair.open() as cache:
        assert said(cache) == []
        assert cache.status["cache"]["persist_ns"] == report["ns"]
        assert cache.read(0, MIB) == stamp(0, MIB, 1)


def test_calibrate_of_what_was_never_attached_remembers_nothing(pair, ctl):
    ctl.run("format", pair.cache_path, "--force")
    done = ctl.run("calibrate", pair.cache_path)
    assert "not remembered" in done.stdout
    assert pair.cache_path.read_bytes()[:4096] == bytes(4096)


@pytest.fixture
def full(disk):
    """A folder on a small file system; fill() leaves no room. Not tmpfs, where reading a hole takes space, too."""
    (disk / "image").write_bytes(b"")
    os.truncate(disk / "image", 48 * MIB)
    mount = disk / "mnt"
    mount.mkdir()
    mkfs = system_tool("mkfs.ext4", "e2fsprogs")
    subprocess.run([mkfs, "-q", "-m", "0", disk / "image"], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", disk / "image", mount], capture_output=True, text=True,
                             check=False)
    if mounted.returncode:
        pytest.skip(f"mount -o loop is not permitted here: {mounted.stderr.strip()}")
    yield mount
    subprocess.run(["umount", mount], check=True)


def fill(folder):
    with open(folder / "filler", "wb", buffering=0) as file:
        for piece in (MIB, 4096):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                pass
        os.fsync(file.fileno())


def test_calibrate_of_a_sparse_image_on_a_full_file_system_is_refused(full, fresh_cache_file, backing, ctl):
    """And does not die of SIGBUS."""
    ctl.run("format", fresh_cache_file)
    ctl.run("identity", "set", fresh_cache_file, "--backing", backing)
    image = copy_sparse(fresh_cache_file, full / "image")
    fill(full)
    before = digest(image)
    said = ctl.refused("calibrate", image)
    assert said == (f"cache device {image}: cannot allocate {2 * MIB} bytes at {CACHE_BYTES - 2 * MIB} (0 are free "
                    "on its file system): No space left on device")
    assert digest(image) == before
    os.remove(full / "filler")
    assert ctl.json("calibrate", image)["remembered"]
    patch(image, PERSIST_RECORD, bytes(112))
    assert digest(image) == before, "nothing else has changed"


def test_what_is_remembered_is_dumped(pair, ctl):
    def dumped():
        return ctl.jsons("dump", pair.cache_path, "--what", "persist")
    ctl.run("format", pair.cache_path, "--force")
    assert dumped() == [], "nothing was measured"
    with pair.open() as cache:
        used = cache.status["cache"]
    (record,) = dumped()
    assert (record["type"], record["at"], record["state"]) == ("persist", PERSIST_RECORD, "valid")
    assert record["ns"] == used["persist_ns"] and record["bytes"] == pair.cache_path.stat().st_size
    assert set(record["chosen"]) == {"512", "4096", "16384", "65536"}
    assert used["persist"] in {"by size", *record["chosen"].values()} and record["made_unix_s"] > 1.7e9
    assert "persist: at=1024 state=valid " in ctl.run("dump", pair.cache_path).stdout
    patch(pair.cache_path, PERSIST_RECORD + 40, b"\xff" * 8)
    (record,) = dumped()
    assert record == {"type": "persist", "at": PERSIST_RECORD, "state": "damaged"}


def remember(pair, ns):
    """ns(method, size class): what the device remembers of each method that this CPU has."""
    record = bytearray(peek(pair.cache_path, PERSIST_RECORD, 112))
    measured = struct.unpack_from("<16I", record, 40)
    struct.pack_into("<16I", record, 40, *(ns(i // 4, i % 4) if old else 0 for i, old in enumerate(measured)))
    patch(pair.cache_path, PERSIST_RECORD, sealed(record))
    return {i // 4 for i, old in enumerate(measured) if old}


def test_what_another_cpu_has_measured_is_dumped_as_that(pair, ctl):
    with pair.open():
        pass
    record = bytearray(peek(pair.cache_path, PERSIST_RECORD, 112))
    record[16] ^= 1  # the CPU
    patch(pair.cache_path, PERSIST_RECORD, sealed(record))
    (record,) = ctl.jsons("dump", pair.cache_path, "--what", "persist")
    assert record["state"] == "of another CPU or memory" and record["ns"]["flushcache"] and "chosen" not in record


def test_a_job_that_names_a_method_beside_one_with_auto(pair, fio):
    """It is that which auto has taken for all sizes, or a contradiction that says what to do."""
    with pair.open():
        pass
    job = {"rw": "write", "bs": "4k", "size": "64k"}
    auto, named = {"name": "one", **job}, {"name": "two", "persist": "flushcache", "stonewall": True, **job}
    methods = remember(pair, lambda method, size: 100 if method == 0 else 200)
    fio.run(auto, named)
    fio.run(named, auto | {"stonewall": True, "persist": "auto"})
    if methods == {0}:
        pytest.skip("this CPU has flushcache alone")
    remember(pair, lambda method, size: 100 if method == 0 else 200 if size == 0 else 50)
    said = fio.refused("contradicts", jobs=(auto, named))
    assert (f"persist=flushcache (job two) contradicts persist=auto (job one), which has chosen by size for the same "
            f"cache {pair.cache_path}: give persist=flushcache to both jobs, or to none") in said
    fio.run(named, auto | {"stonewall": True, "persist": "auto"})
    said = fio.refused("contradicts", jobs=(named, auto | {"stonewall": True, "persist": "clflushopt"}))
    assert "persist=clflushopt (job one) contradicts persist=flushcache (job two)" in said and "give one value" in said
