# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's options: help, values, contradictions; what fio is told when something is wrong."""

import json
import os
import re
import signal
import socket
import subprocess

import pytest

from measure import libpcache
from fio import ENGINE, FIO, OPTIONS, environment, require_engine
from measure.libpcache import MIB
from support import Pair, make_backing, wait_until

SMALL = {"rw": "write", "bs": "4k", "size": "64k"}


def enghelp(*option):
    require_engine()
    done = subprocess.run([FIO, f"--enghelp={','.join([str(ENGINE), *option])}"], capture_output=True, text=True,
                          check=False, env=environment())
    return done.stdout + done.stderr


def test_enghelp_is_the_librarys_table():
    """Each option that the table gives to the engine, with its text; else only those of stats_file, and fio's own."""
    lines = [line for line in enghelp().splitlines() if line[:1].isalpha() and ":" in line]
    told = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines}
    for option in libpcache.OPTIONS.values():
        if option.fio:
            default = option.fio_initial or option.initial
            assert told.pop(option.fio).startswith(
                option.text if option.type == libpcache.TEXT else
                f"{option.text} ({option.expected}; default {default}).")
    assert "JSON" in told.pop("stats_file") and "Seconds" in told.pop("stats_interval")
    assert not {name for name in told if "_" in name and "delete it" not in told[name]}


@pytest.mark.parametrize("option", OPTIONS)
def test_enghelp_of_one_option(option):
    """With its choices, each with a text."""
    told = enghelp(option)
    assert option in told
    listed, = [one for one in libpcache.OPTIONS.values() if one.fio == option] or [None]
    for choice in listed.choices if listed else ():
        assert re.search(rf" {choice}: \w.{{3,}}\.", told), told


@pytest.mark.parametrize("option", ["hipri", "fixedbufs", "registerfiles", "sqthread_poll", "userspace_reap"])
def test_an_option_of_another_engine_is_to_be_deleted(fio, option):
    done = fio.start(**{**SMALL, option: 1})
    assert done.returncode != 0
    line, = [line for line in (done.stderr + done.stdout).splitlines() if "delete it" in line]
    assert option in line


# ---- Each does what it says ----

def test_options_reach_the_library(fio):
    fio.run(data_crc=1, gc_percent=42, persist="flushcache", io_mode="threads", cache_mode="writeonly",
            huge_pages="never", prefault="attach", **SMALL)
    stats = fio.stats
    assert stats["cache"] == {"pmem_kind": "emulated", "persist": "flushcache", "huge_bytes": 0, "readonly": False,
                              "data_crc": True, "gc_percent": 42, "mode": "writeonly"}
    assert stats["backing"]["io_mode"] == "threads"
    fio.run(**SMALL)  # taken from the media
    assert fio.stats["cache"]["data_crc"] is True and fio.stats["cache"]["gc_percent"] == 42
    assert fio.stats["cache"]["mode"] == "writeonly"


@pytest.mark.parametrize("text,size", [("512m", 512 * MIB), ("536870912", 512 * MIB), ("1g", 1024 * MIB)])
def test_cache_size_creates_the_file(fio, pair, shm, text, size):
    pair.cache_path = shm / "new"
    fio.run(cache_size=text, **SMALL)
    assert pair.cache_path.stat().st_size == size


def test_flush_delay(fio):
    """Far longer than the default, of a second: what is written in three seconds stands in open ksets at the end. That
    a short one closes them is tested with the library, which can be waited for."""
    fio.run(flush_delay_ms=60000, writeback_interval_ms=3600000, rw="write", bs="4k", size="52k", rate_iops=4)
    assert fio.stats["log"]["ksets"] == 0 and fio.stats["log"]["open_keys"] == 13


@pytest.mark.parametrize("one,two", [("attach", "attach"), ("beside", "beside"), ("beside", None), (None, "attach")])
def test_prefault(fio, one, two):
    """What the second job does not give it takes from the cache; the default is attach."""
    fio.run({"name": "a", **SMALL, "prefault": one}, {"name": "b", **SMALL, "prefault": two})


def test_force(fio, pair, disk):
    fio.run(**SMALL)
    pair.backing_path = make_backing(disk / "other", 16 * MIB)
    fio.refused("force", **SMALL)
    done = fio.start(force=1, **SMALL)
    line, = [line for line in done.stderr.splitlines() if "all the same (force)" in line]
    assert done.returncode == 0 and "force=1" not in line, "it was given"


def test_stats_file_has_the_name_of_its_job(fio, disk, shm):
    """And each job with a cache of its own has a file of its own, by one line for all."""
    second = Pair(shm / "second", make_backing(disk / "second", 8 * MIB))
    fio.run({"name": "one", **SMALL}, {"name": "two", **SMALL, "filename": second.backing_path,
                                       "cache_dev": second.cache_path, "cache_size": "512m"},
            stats_file=disk / "$jobname-of-$jobname")
    for name in ("one", "two"):
        assert json.loads((disk / f"{name}-of-{name}").read_text())["requests"]["writes"] > 0
    fio.run({"name": "one", **SMALL}, {"name": "three", **SMALL}, stats_file=disk / "$jobname.json")
    assert (disk / "one.json").exists() and not (disk / "three.json").exists(), "they share a cache"


def test_one_section_names_the_caches_of_all_jobs(fio, disk, shm):
    """By the words of filename_format; jobs that come to the same names share a cache."""
    both = dict(cache_dev=shm / "$jobname.$jobnum", cache_size="512m", stats_file=disk / "$jobname.$jobnum.json",
                filename=None, filename_format=disk / "$jobname.$jobnum.disk")
    names = ["one.0", "one.1", "two.0"]
    for name in names:
        make_backing(disk / f"{name}.disk", 16 * MIB)
    jobs = ({"name": "one", **SMALL, "numjobs": 2}, {"name": "two", **SMALL, "size": "2m"})
    assert len(fio.run(*jobs, **both)) == 3
    written = {name: json.loads((disk / f"{name}.json").read_text())["requests"]["writes"] for name in names}
    assert written["one.0"] == written["one.1"] and written["two.0"] == 2 * MIB / 4096
    assert sorted(path.name for path in shm.iterdir()) == names
    shared = {**both, "cache_dev": shm / "one.$jobnum", "filename_format": disk / "one.$jobnum.disk",
              "stats_file": disk / "$jobname.json"}
    fio.run({"name": "one", **SMALL}, {"name": "two", **SMALL}, **shared)
    assert (disk / "one.json").exists() and not (disk / "two.json").exists(), "they share a cache"


def test_filename_format_must_be_given_to_stand_for_filename(fio):
    fio.refused("filename= is missing", filename=None, **SMALL)
    two = dict(filename=None, filename_format="a.$filenum", nrfiles=2)
    fio.refused("exactly one backing device", "filename_format=", **two, **SMALL)


def test_stats_file_is_written_at_intervals(fio):
    command = fio.command(rw="randwrite", bs="4k", size="4m", time_based=1, runtime="60", stats_interval=1)
    job = subprocess.Popen(list(map(str, command)), cwd=fio.folder, env=environment(), stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)
    try:
        wait_until(fio.stats_path.exists)
        first = fio.stats["requests"]["writes"]
        wait_until(lambda: fio.stats["requests"]["writes"] > first)
    finally:
        job.send_signal(signal.SIGINT)
        told = job.communicate(timeout=60)
    assert fio.stats["requests"]["writes"] == json.loads(told[0][told[0].index("{"):])["jobs"][0]["write"]["total_ios"]


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "86401", "99999999999"])
def test_wrong_stats_interval(fio, value):
    fio.refused("stats_interval", value, "1 to 86400", stats_interval=value, **SMALL)


def test_stats_interval_needs_a_file(fio):
    fio.refused("stats_interval=1", "stats_file", stats_interval=1, stats_file=None, **SMALL)


def test_stats_file_that_cannot_be_written_fails_the_run(fio, disk):
    fio.refused("stats_file", disk / "no" / "such", stats_file=disk / "no" / "such", **SMALL)


# ---- Refused: one line that names it, and no cache made ----

@pytest.mark.parametrize("option,value", [
    ("data_crc", "2"), ("data_crc", "yes"), ("gc_percent", "91"), ("gc_percent", "-1"), ("gc_percent", "x"),
    ("gc_percent", "256"), ("persist", "clflush"), ("io_mode", "aio"), ("flush_delay_ms", "0"),
    ("flush_delay_ms", "x"), ("flush_delay_ms", "99999999"), ("cache_size", "x"), ("cache_size", "511m"),
    ("cache_size", "1"), ("cache_size", "512m:x"), ("io_mode", "threads:9"), ("persist", "clwb:x"),
    ("gc_percent", "media:50"), ("emulate_pmem", "7"), ("drain", "yes"), ("force", "7"),
    ("prefault", "1"), ("prefault", "Attach")])
def test_bad_values_are_refused(fio, pair, shm, option, value):
    pair.cache_path = shm / "new"
    named = {"511m": 511 * MIB}.get(value, value)
    line = fio.refused(option, named, **{"cache_size": "512m", **SMALL, option: value})
    assert len(line) < 400
    assert not pair.cache_path.exists(), "the cache file was made all the same"


def test_a_size_of_0_is_the_file_as_it_is(fio):
    fio.run(cache_size=0, **SMALL)


@pytest.mark.parametrize("text", ["512MiB", "512mib"])
def test_a_size_that_fio_reads_otherwise_says_how(fio, pair, shm, text):
    pair.cache_path = shm / "new"
    fio.refused(f"cache_size={text}", "512000000 bytes", "MiB as 1000000", "kb_base=1000", cache_size=text, **SMALL)
    assert not pair.cache_path.exists()
    fio.run(cache_size=text, kb_base=1000, **{**SMALL, "bs": 4096, "size": 65536})
    assert pair.cache_path.stat().st_size == 512 * MIB


def test_a_size_that_is_large_enough_says_so_too(fio, pair, shm):
    pair.cache_path = shm / "new"
    done = fio.start(cache_size="1GiB", **SMALL)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "cache_size=1GiB is 1000000000 bytes" in line]


def test_a_colon_in_a_path(fio, pair, disk, shm):
    """filename= needs a backslash before it, and the file is the one that fio means; cache_dev= takes none."""
    fio.refused("cache_dev", "backslash", cache_dev=str(shm / "c") + "\\:d", cache_size="512m", **SMALL)
    backing = make_backing(disk / "a:b", 16 * MIB)
    fio.run(filename=str(backing).replace(":", "\\:"), cache_dev=shm / "c:d", cache_size="512m", drain=1,
            buffer_pattern='"abcdefgh"', **SMALL)
    assert backing.read_bytes()[:64 << 10] == b"abcdefgh" * (8 << 10)
    assert (shm / "c:d").exists()


def test_no_cache_dev(fio):
    fio.refused("cache_dev", cache_dev=None, **SMALL)


def test_no_filename(fio):
    fio.refused("filename", filename=None, **SMALL)


def test_missing_devices(fio, pair, shm, disk):
    fio.refused(shm / "none", "cache_size", cache_dev=shm / "none", **SMALL)
    fio.refused(disk / "none", filename=disk / "none", cache_dev=shm / "new", cache_size="512m", **SMALL)
    assert not (shm / "none").exists() and not (shm / "new").exists() and not (disk / "none").exists()


def test_not_emulated(fio, pair):
    fio.refused(pair.cache_path, "emulate_pmem", emulate_pmem=0, **SMALL)


def test_contradiction_to_the_media(fio):
    fio.run(data_crc=1, **SMALL)
    fio.refused("data_crc", data_crc=0, **SMALL)


def test_one_cache_of_two_backing_devices(fio, pair, disk):
    other = make_backing(disk / "other", 16 * MIB)
    before = pair.digests()
    fio.refused(pair.cache_path, pair.backing_path, other,
                jobs=[{"name": "a", **SMALL}, {"name": "b", **SMALL, "filename": other}])
    assert pair.digests()[1] == before[1]


def test_one_backing_device_of_two_caches(fio, pair, shm):
    fio.refused(pair.cache_path, pair.backing_path, shm / "other",
                jobs=[{"name": "a", **SMALL},
                      {"name": "b", **SMALL, "cache_dev": shm / "other", "cache_size": "512m"}])
    assert not (shm / "other").exists()


@pytest.mark.parametrize("option,one,two", [("data_crc", 0, 1), ("gc_percent", 10, 20),
                                            ("persist", "flushcache", "clflushopt"),
                                            ("flush_delay_ms", 100, 200), ("prefault", "attach", "beside"),
                                            ("prefault", "beside", "attach"), ("io_mode", "threads", "auto"),
                                            ("writeback_interval_ms", 1000, 2000)])
def test_jobs_of_one_cache_contradict_each_other(fio, option, one, two):
    fio.refused(option, one, two, jobs=[{"name": "a", **SMALL, option: one}, {"name": "b", **SMALL, option: two}])


@pytest.mark.parametrize("one,two", [({"io_mode": "threads"}, {}), ({"gc_percent": 33}, {"gc_percent": "media"}),
                                     ({"drain": 1}, {"drain": 0}), ({"flush_delay_ms": 7}, {"flush_delay_ms": 7})],
                         ids=str)
def test_jobs_of_one_cache_agree(fio, one, two):
    """What the second job does not give, or leaves to the media, is what the cache uses."""
    fio.run({"name": "a", **SMALL, **one}, {"name": "b", **SMALL, **two})


def test_link_to_the_cache_is_the_same_cache(fio, pair, shm):
    os.symlink(pair.cache_path, shm / "link")
    fio.run({"name": "a", **SMALL}, {"name": "b", **SMALL, "cache_dev": shm / "link"})
    assert fio.stats["requests"]["writes"] == 32


def test_cache_in_use_by_another_process(fio, pair):
    with pair.open():
        fio.refused("in use", **SMALL)
    fio.run(**SMALL)


@pytest.mark.parametrize("option", ["filename", "cache_dev"])
@pytest.mark.parametrize("kind", ["FIFO", "socket", "directory"])
def test_what_is_no_device_is_not_waited_for(fio, pair, disk, option, kind):
    path = disk / "thing"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    before = pair.digests()
    fio.refused(path, kind, **{**SMALL, option: path})
    assert pair.digests() == before


def test_wrong_disk(fio, pair, disk):
    fio.run(**SMALL)
    fio.refused(pair.cache_path, "force", filename=make_backing(disk / "other", 16 * MIB), **SMALL)


# ---- Workloads that cannot be ----

@pytest.mark.parametrize("options,words", [
    ({"bs": "1000"}, ["bs", "512"]), ({"bs": "256"}, ["bs", "512"]), ({"offset": "100"}, ["offset", "512"]),
    ({"size": "17m"}, ["size", "past the end"]), ({"offset": "16m", "size": "64k"}, ["past the end"]),
    ({"rw": "randwrite", "verify": "crc32c", "trim_percentage": 10}, ["trim_percentage"]),
    ({"rw": "trim", "bs": "4k,4k,700"}, ["bs", "512"]),
    ({"create_serialize": 0}, ["create_serialize"]),
    ({"filename": "a:b"}, ["filename", "one", "section"])], ids=str)
def test_workload_is_refused(fio, options, words):
    fio.refused(*words, **{**SMALL, **options})


@pytest.mark.damages_image
def test_damaged_superblock(fio, pair):
    Pair(pair.cache_path, pair.backing_path).open().close()
    with open(pair.cache_path, "r+b") as f:
        f.seek(4096)
        f.write(b"\xff")
    before = pair.digests()
    fio.refused(pair.cache_path, "superblock", **SMALL)
    assert pair.digests() == before
