# SPDX-License-Identifier: GPL-2.0-or-later
"""A backing device that has grown: what is attached goes on with what it has, until pcachectl resize-backing; the next
attach uses all of it. A file must be named again for that, since another one may have got its inode's number. Few disks
need not: DiskIdentityTest."""

import contextlib
import errno
import hashlib
import os
import signal
import subprocess

import pytest

from ctl import FAILED, UNTRUSTED, Ctl
from fio import FIO
from measure.libpcache import FUA, MIB, PcacheError
from sick_device import SickDevice
from support import PAGE, SECTOR, golden_images, libnbd, peek, read_all, run_threads, stamp, system_tool, wait_until
from test_nbdkit import content, good, served, tool

NEVER = 3_600_000
OLD = 16 * MIB


@pytest.fixture
def dirty(pair):
    with pair.open(writeback_interval_ms=NEVER) as cache:
        cache.write(0, stamp(0, MIB, 1), flags=FUA)
        cache.write(OLD - PAGE, stamp(OLD - PAGE, PAGE, 1), flags=FUA)
    return pair


def identity(pair):
    return Ctl().json("identity", "show", pair.cache_path)


def recorded(pair):
    """What the identity block says while the cache is attached."""
    return int.from_bytes(peek(pair.cache_path, 32, 8), "little")


def name_again(pair):
    """It is the same one, though the cache holds dirty data for it."""
    Ctl().run("identity", "set", pair.cache_path, "--backing", pair.backing_path)


@pytest.mark.parametrize("size", [OLD + SECTOR, 40 * MIB])
def test_all_of_it_is_used_from_the_next_attach_on(dirty, size):
    before = peek(dirty.cache_path, 0, PAGE)
    os.truncate(dirty.backing_path, size)
    with pytest.raises(PcacheError) as refused:
        dirty.open()
    assert refused.value.code == errno.EXDEV
    assert str(OLD) in refused.value.text and str(size) in refused.value.text
    assert "if it is the same one, and has grown: pcachectl identity set" in refused.value.text
    assert peek(dirty.cache_path, 0, PAGE) == before
    name_again(dirty)
    last = size - SECTOR
    with dirty.open(writeback_interval_ms=NEVER) as cache:
        assert cache.info.logical_bytes == size
        assert cache.read(0, MIB) == stamp(0, MIB, 1) and cache.read(last, SECTOR) == bytes(SECTOR)
        cache.write(last, stamp(last, SECTOR, 2), flags=FUA)
    assert identity(dirty)["backing_bytes"] == size
    assert Ctl().json("check", dirty.cache_path, "--backing", dirty.backing_path)["findings"] == []
    with dirty.open() as cache:
        content = read_all(cache)
        cache.drain()
    assert content[last:] == stamp(last, SECTOR, 2) and dirty.backing_path.read_bytes() == content


def test_a_size_that_a_power_failure_may_undo_is_not_recorded(dirty, ctl, tmp_path):
    """Else the file might have its old size then, and be refused as another."""
    os.truncate(dirty.backing_path, 40 * MIB)
    sick = SickDevice(dirty.backing_path, tmp_path)
    sick.set(errno.ENOSPC)
    line = ctl.refused("identity", "set", dirty.cache_path, "--backing", dirty.backing_path,
                       env={**os.environ, **sick.environment})
    assert f"{dirty.backing_path}: fsync fails" in line and os.strerror(errno.ENOSPC) in line
    assert recorded(dirty) == OLD
    name_again(dirty)


def test_tools_take_all_of_it(dirty, disk):
    os.truncate(dirty.backing_path, 40 * MIB)
    name_again(dirty)
    before = peek(dirty.cache_path, 0, PAGE)
    Ctl().run("export", dirty.cache_path, "--backing", dirty.backing_path, "--to", disk / "whole")
    whole = (disk / "whole").read_bytes()
    assert len(whole) == 40 * MIB and whole[OLD - PAGE:OLD] == stamp(OLD - PAGE, PAGE, 1)
    with dirty.open(readonly=1) as cache:
        assert read_all(cache) == whole
    assert peek(dirty.cache_path, 0, PAGE) == before
    assert Ctl().json("writeback", dirty.cache_path, "--to", dirty.backing_path)["done"]
    assert dirty.backing_path.read_bytes() == whole


def test_while_attached_requests_past_the_old_end_are_refused(dirty):
    with dirty.open(writeback_interval_ms=NEVER) as cache:
        os.truncate(dirty.backing_path, 40 * MIB)
        for call in (lambda: cache.read(OLD, PAGE), lambda: cache.write(OLD - SECTOR, bytes(PAGE))):
            with pytest.raises(OSError) as refused:
                call()
            assert refused.value.errno == errno.ENXIO
        cache.write(MIB, stamp(MIB, MIB, 3))
        cache.drain()
    assert peek(dirty.backing_path, MIB, MIB) == stamp(MIB, MIB, 3)
    assert peek(dirty.backing_path, OLD, 24 * MIB) == bytes(24 * MIB)
    told = Ctl().run("check", dirty.cache_path, "--backing", dirty.backing_path, code=UNTRUSTED).stdout
    assert "if it is the same one, and has grown: pcachectl identity set" in told
    name_again(dirty)


def test_another_file_that_is_larger_is_still_another(dirty, disk):
    other = disk / "other"
    other.write_bytes(bytes(40 * MIB))
    right, dirty.backing_path = dirty.backing_path, other
    with pytest.raises(PcacheError) as refused:
        dirty.open()
    assert refused.value.code == errno.EXDEV
    line = Ctl().refused("identity", "set", dirty.cache_path, "--backing", other, code=FAILED)
    assert "--force" in line
    dirty.backing_path = right


# ---- While it is attached ----

@pytest.mark.parametrize("crc", [0, 1])
def test_an_attached_cache_uses_all_of_it(pair, ctl, crc):
    with pair.open(writeback_interval_ms=NEVER, data_crc=crc) as cache:
        cache.write(OLD - PAGE, stamp(OLD - PAGE, PAGE, 1), flags=FUA)
        os.truncate(pair.backing_path, 40 * MIB)
        assert ctl.json("resize-backing", pair.cache_path) == {"bytes": 40 * MIB, "before": OLD}
        assert "as before: nothing was changed" in ctl.run("resize-backing", pair.cache_path).stdout
        assert cache.info.logical_bytes == cache.status["backing"]["bytes"] == 40 * MIB
        assert recorded(pair) == 40 * MIB
        cache.write(OLD - SECTOR, stamp(OLD - SECTOR, PAGE, 2), flags=FUA)
        cache.write(39 * MIB, stamp(39 * MIB, MIB, 3), flags=FUA)
        with pytest.raises(OSError) as refused:
            cache.write(40 * MIB, bytes(PAGE))
        assert refused.value.errno == errno.ENXIO
        now = read_all(cache)
        assert len(now) == 40 * MIB and now[39 * MIB:] == stamp(39 * MIB, MIB, 3)
        assert sum(length for _, length, _ in cache.map(0, 40 * MIB)) == 40 * MIB
    with pair.open() as cache:  # no word of the identity
        assert not [line for _, line in cache.log if "grown" in line or "identity" in line]
        assert read_all(cache) == now
        cache.drain()
    assert pair.backing_path.read_bytes() == now
    assert Ctl().json("check", pair.cache_path, "--backing", pair.backing_path)["findings"] == []


def test_under_writers_and_readers(pair, ctl):
    """Each writes up to the end as it is told, and reads what it has written."""
    sizes = [OLD + step * MIB for step in (1, 2, 8, 24)]
    with pair.open(writeback_interval_ms=20) as cache:
        def use(rest):
            round_ = 0
            while cache.info.logical_bytes < sizes[-1] or round_ < 300:
                end = cache.info.logical_bytes
                for off in (end - (4 - rest) * PAGE, round_ * 4 * PAGE % OLD + rest * PAGE):
                    cache.write(off, stamp(off, PAGE, round_))
                    assert cache.read(off, PAGE) == stamp(off, PAGE, round_)
                round_ += 1

        def grow():
            for size in sizes:
                os.truncate(pair.backing_path, size)
                assert ctl.json("resize-backing", pair.cache_path)["bytes"] == size

        run_threads(lambda: use(0), lambda: use(1), lambda: use(2), grow)
        now = read_all(cache)
        cache.drain()
    assert pair.backing_path.read_bytes() == now


def test_what_is_refused_while_attached(pair, ctl):
    assert "the next attach uses" in ctl.refused("resize-backing", pair.cache_path)
    with pair.open(writeback_interval_ms=NEVER) as cache:
        cache.write(0, stamp(0, MIB, 1), flags=FUA)
        os.truncate(pair.backing_path, OLD - PAGE)
        line = ctl.refused("resize-backing", pair.cache_path)
        assert str(OLD - PAGE) in line and str(OLD) in line and "make it as large again" in line
        os.truncate(pair.backing_path, 2 << 40)
        assert "attach the cache again" in ctl.refused("resize-backing", pair.cache_path)
        assert cache.info.logical_bytes == recorded(pair) == OLD
        os.truncate(pair.backing_path, OLD + SECTOR - 1)
        told = ctl.run("resize-backing", pair.cache_path).stdout
        assert "nothing was changed" in told, "whole blocks alone count"
        os.truncate(pair.backing_path, OLD)
    with pair.open(readonly=1):
        assert "readonly" in ctl.refused("resize-backing", pair.cache_path)


@pytest.mark.parametrize("image", golden_images())
def test_with_an_image_of_the_kernel(golden, shm, disk, ctl, image):
    pair = golden.copy(image["name"], shm, disk)
    old = image["logical_bytes"]
    size = old + 24 * MIB
    with pair.open() as cache:
        os.truncate(pair.backing_path, size)
        assert ctl.json("resize-backing", pair.cache_path)["bytes"] == size
        cache.write(size - MIB, stamp(size - MIB, MIB, 1), flags=FUA)
    with pair.open() as cache:
        now = read_all(cache)
    assert hashlib.sha256(now[:old]).hexdigest() == image["logical_sha256_kernel"]
    assert now[old:] == bytes(23 * MIB) + stamp(size - MIB, MIB, 1)
    assert identity(pair)["backing_bytes"] == size


def test_nbdkit_tells_new_connections_and_serves_the_old(pair, tmp_path, ctl):
    """fio verifies what was there before while the device grows, and then what has come; the server is killed then."""
    verify = ["--ioengine=nbd", "--bs=4k", "--iodepth=8", "--verify=crc32c", "--end_fsync=1"]
    size = 40 * MIB
    with served(pair, tmp_path, killed=True) as (uri, server):
        before = libnbd().NBD()
        before.connect_uri(uri)
        job = ["--name=old", "--rw=randwrite", "--size=16m", "--loops=6"]
        load = subprocess.Popen([FIO, *verify, f"--uri={uri}", *job], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, cwd=tmp_path)
        wait_until(lambda: ctl.json("status", pair.cache_path)["requests"]["writes"] > 0)
        for now in range(OLD + 8 * MIB, size + 1, 8 * MIB):
            os.truncate(pair.backing_path, now)
            assert ctl.json("resize-backing", pair.cache_path)["bytes"] == now
            assert good(tool("nbdinfo", "libnbd-bin"), "--size", uri) == f"{now}\n"
        good(FIO, *verify, f"--uri={uri}", "--name=new", "--rw=randwrite", "--offset=16m", "--size=24m", cwd=tmp_path)
        assert load.wait(timeout=120) == 0, load.stdout.read()
        assert before.get_size() == OLD and len(before.pread(PAGE, OLD - PAGE)) == PAGE
        good(tool("nbdcopy", "libnbd-bin"), uri, tmp_path / "read")
        before.flush()
        server.send_signal(signal.SIGKILL)
        server.wait()
    assert (tmp_path / "read").stat().st_size == size
    assert (tmp_path / "read").read_bytes() == content(pair)
    with pair.open() as cache:
        cache.drain()
    assert pair.backing_path.read_bytes() == (tmp_path / "read").read_bytes()


@contextlib.contextmanager
def loop_device(path):
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("loop devices take root and /dev/loop-control")
    losetup = system_tool("losetup", "mount")
    device = good(losetup, "--find", "--show", path).strip()
    try:
        yield device
    finally:
        good(losetup, "--detach", device)


def test_a_block_device(pair, ctl):
    """A loop device, whose size is read anew when losetup is told to."""
    path = pair.backing_path
    with loop_device(path) as device:
        pair.backing_path = device
        with pair.open(writeback_interval_ms=NEVER) as cache:
            os.truncate(path, 40 * MIB)
            assert "nothing was changed" in ctl.run("resize-backing", pair.cache_path).stdout
            good("losetup", "--set-capacity", device)
            assert ctl.json("resize-backing", pair.cache_path) == {"bytes": 40 * MIB, "before": OLD}
            cache.write(39 * MIB, stamp(39 * MIB, MIB, 1), flags=FUA)
            cache.drain()
        assert peek(device, 39 * MIB, MIB) == stamp(39 * MIB, MIB, 1)
    pair.backing_path = path
    name_again(pair)
