# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl writeback: the dirty data on the backing device, however often it is interrupted."""

import json
import shutil
import signal

import pytest

from ctl import DONE, FINDINGS, UNTRUSTED
from measure.libpcache import MIB
from support import golden_case, golden_damaged, make_backing, patch, read_all, stamp, wait_until


def check_drained(ctl, pair, content, dead_keys=False):
    """The backing device is the whole content, nothing is dirty, nothing is wrong, and again is nothing.

    Keys of a gone generation, where the image had some, stay or go: reclaim runs beside the drain,
    as gc_percent says, and is not waited for."""
    assert pair.backing_path.read_bytes() == content
    checked = ctl.json("check", pair.cache_path, "--backing", pair.backing_path)
    assert [f for f in checked["findings"] if not (dead_keys and f["code"] == "dead-keys")] == []
    assert ctl.json("status", pair.cache_path)["dirty"] == {"ksets": 0, "keys": 0, "bytes": 0}
    again = ctl.json("writeback", pair.cache_path, "--to", pair.backing_path)
    assert again == {"dirty_bytes": 0, "written_bytes": 0, "left_bytes": 0, "done": True}
    assert pair.backing_path.read_bytes() == content


def export(ctl, pair, to, *more):
    ctl.run("export", pair.cache_path, "--backing", pair.backing_path, "--to", to, *more)
    return to.read_bytes()


@pytest.mark.parametrize("name", ["a_empty_crcoff", "b_mixed_crcoff", "c_mixed_crcon", "d_crash_crcoff",
                                  "d_crash_crcon", "e_gc_crcoff", "x_gcwindow_crafted_crcoff"])
def test_kernel_image(ctl, golden, shm, disk, name):
    pair = golden.copy(name, shm, disk)
    content = export(ctl, pair, disk / "whole")
    (disk / "whole").unlink()
    dirty = {ctl.json("status", pair.cache_path)["dirty"]["bytes"], ctl.json("check", pair.cache_path)["dirty_bytes"],
             ctl.json("export", pair.cache_path, "--backing", pair.backing_path, "--to",
                      disk / "whole")["dirty_bytes"]}
    told = ctl.json("writeback", pair.cache_path, "--to", pair.backing_path)
    assert told["done"] and dirty == {told["dirty_bytes"]}, "one figure, whoever tells it"
    assert told["written_bytes"] >= told["dirty_bytes"], "what two epochs wrote is written twice"
    check_drained(ctl, pair, content, dead_keys=name.startswith("x_gcwindow"))


@pytest.mark.parametrize("data_crc", [0, 1])
def test_image_of_ours(ctl, pair, data_crc):
    with pair.open(data_crc=data_crc, writeback_interval_ms=3_600_000) as cache:
        for tag in range(1, 200):
            off = tag * 7919 % 4000 * 4096
            cache.write(off, stamp(off, 4096, tag))
        content = read_all(cache)
    assert pair.backing_path.read_bytes() != content
    assert "written to" in ctl.run("writeback", pair.cache_path, "--to", pair.backing_path).stdout
    check_drained(ctl, pair, content)
    with pair.open() as cache:
        assert read_all(cache) == content


def test_sigkill_and_again(ctl, golden, shm, disk):
    """Killed as soon as it has begun to write, some times; the next run goes on and loses nothing. It may be faster
    than the killer, and is then begun anew."""
    pair = golden.copy("e_gc_crcoff", shm, disk)
    content = export(ctl, pair, disk / "whole")
    killed = 0
    for round_ in range(20):
        if round_ >= 3 and killed > 0:
            break
        before = pair.backing_path.stat().st_mtime_ns
        running = ctl.start("writeback", pair.cache_path, "--to", pair.backing_path)
        wait_until(lambda: running.poll() is not None or pair.backing_path.stat().st_mtime_ns != before)
        running.kill()
        if running.wait() != -signal.SIGKILL:
            assert running.returncode == DONE
            pair = golden.copy("e_gc_crcoff", shm, disk)
            continue
        killed += 1
        found = ctl.call("check", pair.cache_path, "--backing", pair.backing_path)
        assert found.returncode in (DONE, FINDINGS), found.stdout
        (disk / "whole").unlink()
        assert export(ctl, pair, disk / "whole") == content
    assert killed > 0, "it was never interrupted"
    ctl.run("writeback", pair.cache_path, "--to", pair.backing_path)
    check_drained(ctl, pair, content)


def test_to_another_device_is_refused(ctl, pair, disk):
    """It would be destroyed. Nothing is changed, on any of the three."""
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(0, stamp(0, MIB, 1))
    before = pair.digests()
    for other in (make_backing(disk / "other", 16 * MIB, tag=9), make_backing(disk / "small", 8 * MIB, tag=9)):
        content = other.read_bytes()
        ctl.refused("writeback", pair.cache_path, "--to", other, code=UNTRUSTED)
        assert other.read_bytes() == content and pair.digests() == before


def test_to_a_copy(ctl, pair, disk):
    """With --ignore-identity; from then on the cache belongs to the copy."""
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(0, stamp(0, MIB, 1))
        content = read_all(cache)
    original = pair.backing_path.read_bytes()
    shutil.copy(pair.backing_path, disk / "copy")
    ctl.run("writeback", pair.cache_path, "--to", disk / "copy", "--ignore-identity")
    assert (disk / "copy").read_bytes() == content and pair.backing_path.read_bytes() == original
    ctl.run("check", pair.cache_path, "--backing", disk / "copy")
    ctl.run("check", pair.cache_path, "--backing", pair.backing_path, code=UNTRUSTED)
    pair.backing_path = disk / "copy"


def test_blank_is_not_formatted(ctl, pair):
    before = pair.digests()
    assert "blank" in ctl.refused("writeback", pair.cache_path, "--to", pair.backing_path)
    assert pair.digests() == before


@pytest.mark.parametrize("case", golden_damaged(attach="refuse"))
def test_damaged_image_is_left_alone(ctl, golden, case):
    with golden.untouched_damaged(case) as pair:
        for more in ([], ["--ignore-identity"]):
            ctl.refused("writeback", pair.cache_path, "--to", pair.backing_path, *more, code=UNTRUSTED)


@pytest.mark.damages_image
def test_damaged_dirty_data(ctl, golden, shm, disk):
    """All else is written, the damaged range stays as the backing device has it, and exit status 2 says so."""
    case = golden_case("data-flip-dirty-crc-on")
    pair = golden.copy_damaged(case, shm, disk)
    content = export_force(ctl, pair, disk / "whole")
    done = ctl.call("writeback", pair.cache_path, "--to", pair.backing_path, "--json")
    told = json.loads(done.stdout)
    off, length = case["expect"]["eio_range"]
    assert done.returncode == UNTRUSTED and not told["done"] and told["left_bytes"] >= length, off
    assert pair.backing_path.read_bytes() == content
    for _again in range(2):
        assert ctl.call("check", pair.cache_path, "--backing", pair.backing_path).returncode == UNTRUSTED
        assert ctl.call("writeback", pair.cache_path, "--to", pair.backing_path).returncode == UNTRUSTED
    assert pair.backing_path.read_bytes() == content


@pytest.mark.damages_image
def test_damaged_dirty_data_is_told_in_one_line(ctl, golden, shm, disk):
    pair = golden.copy_damaged(golden_case("data-flip-dirty-crc-on"), shm, disk)
    done = ctl.run("writeback", pair.cache_path, "--to", pair.backing_path, code=UNTRUSTED)
    assert done.stdout.startswith("not done: of ") and " is still dirty" in done.stdout


def export_force(ctl, pair, to):
    ctl.run("export", pair.cache_path, "--backing", pair.backing_path, "--to", to, "--force", code=UNTRUSTED)
    return to.read_bytes()


@pytest.mark.damages_image
def test_torn_tail_is_no_obstacle(ctl, golden, shm, disk):
    case = golden_case("kset-key-num-huge-at-head")
    pair = golden.copy_damaged(case, shm, disk)
    ctl.run("writeback", pair.cache_path, "--to", pair.backing_path)
    check_drained(ctl, pair, pair.backing_path.read_bytes())
    patch(pair.cache_path, 0, bytes(4096))  # the identity block only


def test_backing_device_that_cannot_be_written(ctl, pair, disk):
    """A directory, nothing, a character device."""
    pair.open().close()
    before = pair.digests()
    for to in (disk, disk / "missing", "/dev/null"):
        ctl.refused("writeback", pair.cache_path, "--to", to)
    assert pair.digests() == before
