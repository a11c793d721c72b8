# SPDX-License-Identifier: GPL-2.0-or-later
"""readonly=1: both devices are read as they are, and stay byte for byte what they are; and what cannot be written
to is refused without it, before anything is written."""

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess

import pytest

from fio import FIO, environment
from measure.libpcache import FLUSH, MIB, WRITE, PcacheError, Request
from support import CACHE_BYTES, Pair, golden_images, read_all, run_by_owner, stamp

ADVICE = "readonly=1"


def times(pair):
    return [(os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in (pair.cache_path, pair.backing_path)]


@contextlib.contextmanager
def unchanged(pair):
    """Neither file's content, size and time of change."""
    before, then = pair.digests(), times(pair)
    yield
    assert times(pair) == then
    assert pair.digests() == before


@pytest.fixture(params=[0, 1], ids=["crc_off", "crc_on"])
def dirty(request, pair):
    """A cache with dirty data, clean data, and its content."""
    with pair.open(data_crc=request.param, writeback_interval_ms=3_600_000) as cache:
        cache.read(12 * MIB, MIB)
        cache.write(0, stamp(0, MIB, 1))
        cache.write(4 * MIB + 512, stamp(4 * MIB + 512, 4096, 2))
        cache.flush()
        pair.content = read_all(cache)
    return pair


def test_nothing_is_written_and_all_is_read(dirty):
    with unchanged(dirty), dirty.open(readonly=1, writeback_interval_ms=1, flush_delay_ms=1) as cache:
        status = cache.status
        assert status["cache"]["readonly"] is True
        assert status["dirty"]["bytes"] == MIB + 4096
        for _ in range(2):
            assert read_all(cache) == dirty.content
        for op, flags in ((WRITE, 0), (WRITE, 1), (WRITE, 2)):
            request = Request(op, 0, stamp(0, 4096, 9), flags=flags)
            assert cache.queue.submit(request) and request.result == -errno.EROFS
        request = Request(FLUSH)
        assert cache.queue.submit(request) and request.result == 0
        for call in (cache.drain, lambda: cache.set_gc_percent(50)):
            with pytest.raises(PcacheError) as refused:
                call()
            assert refused.value.code == errno.EROFS
        assert read_all(cache) == dirty.content
        assert cache.status["segments"] == status["segments"] and cache.status["log"] == status["log"]
    with dirty.open() as cache:
        assert cache.status["cache"]["readonly"] is False
        assert read_all(cache) == dirty.content


def test_as_it_is_left_by_a_crash(dirty):
    """Attached beside no one: a copy of the files as they are while a cache runs that has flushed."""
    with dirty.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(8 * MIB, stamp(8 * MIB, 8192, 7), flags=1)
        copy = Pair(dirty.cache_path.with_name("copy"), dirty.backing_path.with_name("copy"))
        shutil.copyfile(dirty.cache_path, copy.cache_path)
        shutil.copyfile(dirty.backing_path, copy.backing_path)
    with unchanged(copy):
        with pytest.raises(PcacheError) as refused:
            copy.open(readonly=1)
        assert refused.value.code == errno.EXDEV
        with copy.open(readonly=1, force=1) as cache:  # harmless: nothing goes to the wrong disk
            want = bytearray(dirty.content)
            want[8 * MIB:8 * MIB + 8192] = stamp(8 * MIB, 8192, 7)
            assert read_all(cache) == bytes(want)
    copy.used = False  # the check after the test would find the other backing file


@pytest.mark.parametrize("image", golden_images())
def test_golden_images(golden, image):
    with golden.untouched(image["name"]) as pair, unchanged(pair):
        with pair.open(readonly=1) as cache:
            assert hashlib.sha256(read_all(cache)).hexdigest() == image["logical_sha256_kernel"]


def test_several_at_once_but_none_that_writes(dirty):
    with unchanged(dirty), dirty.open(readonly=1) as one, dirty.open(readonly=1) as two:
        assert read_all(one) == read_all(two) == dirty.content
        with pytest.raises(PcacheError) as refused:
            dirty.open()
        assert refused.value.code == errno.EBUSY
    with dirty.open():
        with pytest.raises(PcacheError) as refused:
            dirty.open(readonly=1)
        assert refused.value.code == errno.EBUSY


@pytest.mark.parametrize("options", [{"drain": 1}, {"gc_percent": 50}, {"cache_size": 2 * CACHE_BYTES},
                                     {"readonly": 2}],
                         ids=lambda options: next(iter(options)))
def test_what_contradicts_it(dirty, options):
    with unchanged(dirty), pytest.raises(PcacheError) as refused:
        dirty.open(**({"readonly": 1} | options))
    assert refused.value.code == errno.EINVAL and next(iter(options)) in refused.value.text


def test_a_size_that_it_has_is_no_contradiction(dirty):
    with unchanged(dirty), dirty.open(readonly=1, cache_size=CACHE_BYTES) as cache:
        assert read_all(cache) == dirty.content


def test_blank_and_missing(pair, shm):
    with unchanged(pair), pytest.raises(PcacheError) as refused:
        pair.open(readonly=1)
    assert refused.value.code == errno.EINVAL and "blank" in refused.value.text
    pair.cache_path = shm / "missing"
    with pytest.raises(PcacheError) as refused:
        pair.open(readonly=1, cache_size=CACHE_BYTES)
    assert refused.value.code == errno.ENOENT and not pair.cache_path.exists()


# ---- Where nothing may be written ----

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from measure.libpcache import Cache, PcacheError
from support import read_all
import hashlib
for readonly in (0, 1):
    try:
        with Cache(sys.argv[2], sys.argv[3], readonly=readonly) as cache:
            print(hashlib.sha256(read_all(cache)).hexdigest())
    except PcacheError as e:
        print(e.code, e.text)
"""


@pytest.mark.parametrize("which", ["cache_path", "backing_path"])
def test_files_and_folders_without_write_permission(dirty, shm, disk, which):
    where = shm if which == "cache_path" else disk
    source = getattr(dirty, which)
    # In the same place when it is the backing file: the cache knows it by its inode.
    path = source if which == "backing_path" else shutil.copyfile(source, where / "ro")
    setattr(dirty, which, path)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with unchanged(dirty):
            got = run_by_owner(CHILD, dirty.cache_path, dirty.backing_path)
    finally:
        path.parent.chmod(0o755)
        path.chmod(0o600)
    refusal, content = got.splitlines()
    assert refusal.startswith(f"{errno.EACCES} ") and ADVICE in refusal and str(path) in refusal
    assert content == hashlib.sha256(dirty.content).hexdigest()


@contextlib.contextmanager
def read_only_mount(folder):
    done = subprocess.run(["mount", "--bind", "-o", "ro", str(folder), str(folder)], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        pytest.skip(f"mount --bind is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("which", ["cache_path", "backing_path"])
def test_file_system_that_is_mounted_read_only(dirty, shm, which):
    if which == "cache_path":
        dirty.cache_path = shutil.copyfile(dirty.cache_path, shm / "ro")
    with unchanged(dirty), read_only_mount(getattr(dirty, which).parent):
        with pytest.raises(PcacheError) as refused:
            dirty.open()
        assert refused.value.code == errno.EROFS and ADVICE in refused.value.text
        with dirty.open(readonly=1) as cache:
            assert read_all(cache) == dirty.content


@contextlib.contextmanager
def loop_device(path, *options):
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin:/usr/bin")
    if not losetup:
        pytest.skip("losetup is not there")
    made = subprocess.run([losetup, "--find", "--show", *options, str(path)], capture_output=True, text=True,
                          check=False)
    if made.returncode:
        pytest.skip(f"losetup is not permitted here: {made.stderr.strip()}")
    try:
        yield made.stdout.strip()
    finally:
        subprocess.run([losetup, "--detach", made.stdout.strip()], check=True)


def test_block_device_that_is_read_only(dirty, ctl):
    file = dirty.backing_path
    with unchanged(dirty), loop_device(file, "--read-only") as device:
        shown = Pair(dirty.cache_path, device)
        with pytest.raises(PcacheError) as refused:
            shown.open(force=1)
        assert refused.value.code == errno.EROFS
        assert device in refused.value.text and ADVICE in refused.value.text
        line = ctl.refused("writeback", dirty.cache_path, "--to", device, "--ignore-identity")
        assert "read-only" in line
        with shown.open(readonly=1, force=1) as cache:
            assert read_all(cache) == dirty.content
        shown.used = False


# ---- fio ----

def run_fio(fio, *jobs, switches=()):
    """From a job file: on the command line --readonly is fio's own switch, which takes no value."""
    sections = []
    for job in jobs:
        options = fio.engine_options(**job)
        name = options.pop("name")
        sections.append("\n".join([f"[{name}]"] + [f"{key}={value}" for key, value in options.items()]))
    path = fio.folder / "jobs.fio"
    path.write_text("\n".join(sections) + "\n")
    return subprocess.run([FIO, *switches, "--output-format=json", str(path)], capture_output=True, text=True,
                          check=False, cwd=fio.folder, env=environment(), timeout=60)


@pytest.mark.parametrize("option,switches", [({"readonly": 1}, []), ({}, ["--readonly"])], ids=["option", "switch"])
def test_fio_reads(fio, dirty, option, switches):
    with unchanged(dirty):
        done = run_fio(fio, {"name": "r", "rw": "read", "bs": "64k", "cache_size": CACHE_BYTES, **option},
                       switches=switches)
    assert done.returncode == 0, done.stderr
    assert fio.stats["cache"]["readonly"] is True
    assert fio.stats["requests"]["reads"] == 16 * MIB // 65536


@pytest.mark.parametrize("jobs,words", [
    ([{"rw": "randwrite", "readonly": 1}], "job 0: it writes, and with readonly=1"),
    ([{"rw": "rw", "readonly": 1}], "job 0: it writes, and with readonly=1"),
    ([{"rw": "read", "readonly": 1, "drain": 1}], "job 0: drain=1 writes back, and with readonly=1"),
    ([{"rw": "read", "readonly": 1, "gc_percent": 50}], "option gc_percent: contradicts readonly=1"),
    ([{"rw": "read", "readonly": 1}, {"rw": "read"}], "readonly=0 (job 1) contradicts readonly=1 (job 0)"),
    ([{"rw": "read"}, {"rw": "read", "readonly": 1}], "readonly=1 (job 1) contradicts readonly=0 (job 0)")])
def test_fio_refuses_what_would_write(fio, dirty, jobs, words):
    before = dirty.digests()[1]
    done = run_fio(fio, *({"name": str(n), "bs": "4k", **job} for n, job in enumerate(jobs)))
    assert done.returncode != 0
    assert len([line for line in done.stderr.splitlines() if words in line]) == 1, done.stderr
    assert dirty.digests()[1] == before


def test_fios_switch_contradicts_drain(fio, dirty):
    with unchanged(dirty):
        done = run_fio(fio, {"name": "job", "rw": "read", "drain": 1}, switches=["--readonly"])
    assert done.returncode and "drain=1 writes back" in done.stderr
