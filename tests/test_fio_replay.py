# SPDX-License-Identifier: GPL-2.0-or-later
"""read_iolog=: what a log asks for is done, or refused with a line that says what and where."""

import errno
import subprocess

import pytest

from fio import environment, fio_version
from measure.libpcache import MIB
from sick_device import SickDevice
from support import PAGE
from test_fio_end import Run


def write_log(path, *requests, files=("/dev/sda",), version=3):
    """An iolog of (action, offset, length), or (action, offset, length, file)."""
    time = "0 " if version == 3 else ""
    lines = [f"fio version {version} iolog"]
    lines += [f"{time}{name} {what}" for name in files for what in ("add", "open")]
    for action, offset, length, *name in requests:
        lines.append(f"{time}{name[0] if name else files[0]} {action} {offset} {length}")
    lines += [f"{time}{name} close" for name in files]
    path.write_text("\n".join(lines) + "\n")
    return path


WRITES = [("write", at, PAGE) for at in range(0, 16 * PAGE, PAGE)]


@pytest.mark.parametrize("version", [2, 3])
def test_a_log_of_another_device_is_redirected_and_says_so(fio, disk, version):
    log = write_log(disk / "log", *WRITES, files=("/dev/sdx",), version=version)
    done = fio.start(read_iolog=log)
    assert done.returncode == 0, done.stderr
    line, = [line for line in done.stderr.splitlines() if "replayed onto" in line]
    assert "/dev/sdx" in line and str(fio.pair.backing_path) in line and str(log) in line
    assert fio.stats["requests"]["writes"] == 16


def test_its_own_log_is_no_line(fio, pair, disk):
    fio.run(rw="randrw", bs="4k", size="1m", write_iolog=disk / "log")
    done = fio.start(read_iolog=disk / "log")
    assert done.returncode == 0 and "replayed onto" not in done.stderr, done.stderr
    assert fio.stats["requests"]["reads"] + fio.stats["requests"]["writes"] == 256


@pytest.mark.parametrize("version", [2, 3])
def test_a_log_of_two_devices_is_refused(fio, pair, disk, version):
    log = write_log(disk / "log", *WRITES, ("write", 0, PAGE, "/dev/sdy"), files=("/dev/sdx", "/dev/sdy"),
                    version=version)
    before = pair.digests()
    fio.refused("/dev/sdx", "/dev/sdy", log, "replay_redirect", read_iolog=log)
    assert pair.digests() == before
    done = fio.start(read_iolog=log, replay_redirect=pair.backing_path)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "/dev/sdx and /dev/sdy" in line]
    assert fio.stats["requests"]["writes"] == 17


def test_a_log_of_two_devices_on_stdin_is_refused(fio, disk):
    """It can be read only once, by fio: seen when the job starts."""
    log = write_log(disk / "log", *WRITES, ("write", 0, PAGE, "/dev/sdy"), files=("/dev/sdx", "/dev/sdy"))
    done = subprocess.run(fio.command(read_iolog="-"), input=log.read_text(), capture_output=True, text=True,
                          check=False, cwd=fio.folder, env=environment(), timeout=60)
    assert done.returncode != 0
    line, = [line for line in done.stderr.splitlines() if "replay_redirect" in line]
    assert "/dev/sdx" in line and "/dev/sdy" in line
    assert fio.stats["requests"]["writes"] == 0


def test_redirected_elsewhere_is_refused(fio, disk):
    log = write_log(disk / "log", *WRITES)
    fio.refused("replay_redirect", "/dev/sdz", read_iolog=log, replay_redirect="/dev/sdz")


def test_a_log_with_trims_is_replayed_or_refused(fio, pair, disk):
    """fio 3.33 drops those of its own logs, so the engine refuses them."""
    log = write_log(disk / "log", *WRITES, ("trim", 0, PAGE), ("trim", 8 * PAGE, PAGE))
    if fio_version() < (3, 34):
        before = pair.digests()
        line = fio.refused("trim", log, "2 trims", "line 20", read_iolog=log)
        assert "replay_skip=trim" in line
        assert pair.digests() == before
    else:
        done = fio.start(read_iolog=log)
        assert done.returncode == 0, done.stderr
        assert fio.stats["requests"]["writes"] == 16 and fio.stats["requests"]["discards"] == 2


def test_trims_of_a_log_are_left_out(fio, disk):
    log = write_log(disk / "log", *WRITES, ("trim", 0, PAGE), ("trim", 8 * PAGE, PAGE))
    done = fio.start(read_iolog=log, replay_skip="trim")
    assert done.returncode == 0, done.stderr
    assert fio.stats["requests"]["writes"] == 16 and fio.stats["requests"]["discards"] == 0


@pytest.mark.parametrize("bad,words", [
    (("write", PAGE + 7, PAGE), ["write of 4096 bytes", "offset 4103", "block size, 512"]),
    (("read", PAGE, 700), ["read of 700 bytes", "offset 4096", "block size, 512"]),
    (("read", 16 * MIB, PAGE), ["read of 4096 bytes", "offset 16777216", "ends at 16777216"]),
    (("write", 16 * MIB - 512, PAGE), ["write of 4096 bytes", "offset 16776704", "ends at 16777216"])], ids=str)
def test_a_bad_request_is_named(fio, disk, bad, words):
    log = write_log(disk / "log", *WRITES, bad)
    fio.refused(fio.pair.backing_path, *words, read_iolog=log)


def test_many_bad_requests_are_one_line_of_each_kind_and_a_count(fio, disk):
    bad = [("write", at + 1, PAGE) for at in range(20)] + [("read", 17 * MIB + at * PAGE, PAGE) for at in range(9)]
    log = write_log(disk / "log", *bad, ("write", 0, PAGE))
    done = subprocess.run(fio.command(read_iolog=log, continue_on_error="all",
                                      ignore_error="EINVAL:ENXIO,EINVAL:ENXIO"), capture_output=True, text=True,
                          check=False, cwd=fio.folder, env=environment(), timeout=60)
    ours = [line for line in done.stderr.splitlines() if "refused" in line]
    assert len(ours) == 3, done.stderr
    assert "20 requests" in ours[2] and "9 past the end" in ours[2]


CHUNK = 64 << 10


def test_the_last_requests_of_a_log_are_done(fio, pair, disk):
    """fio asks for no completion of those that are in flight when the log ends; in a full cache they wait for space."""
    sick = SickDevice(pair.backing_path, disk)
    sick.set("hang")
    last = [15 * MIB + at * CHUNK for at in range(16)]
    # The barrier after each round has all of it written.
    full = [("write", at * CHUNK, CHUNK) for at in range(240)] + [("sync", 0, 0)]
    log = write_log(disk / "log", *full * 38, *[("write", at, CHUNK) for at in last], files=(pair.backing_path,))
    # Deep enough for all that the cache has no room for.
    with Run(fio, sick, read_iolog=log, iodepth=2048, drain=1, buffer_pattern="0x5a", io_mode="threads",
             writeback_interval_ms=3600000) as run:
        run.wait_for("requests wait for space")
        sick.set("")
        assert run.ends() == 0, run.err.read_text()
    assert fio.stats["events"]["waits_on_full"] > 0, "the cache has not been full"
    data = pair.backing_path.read_bytes()
    missing = [at for at in last if data[at:at + CHUNK] != b"\x5a" * CHUNK]
    assert not missing, f"{len(missing)} of the last {len(last)} are not on the backing device"


def test_an_error_of_the_last_requests_is_the_jobs(fio, pair, disk):
    """Of reads that a failing device answers after the log has come to its end."""
    sick = SickDevice(pair.backing_path, disk)
    sick.set(f"late {errno.EIO}")
    log = write_log(disk / "log", *[("read", at * CHUNK, CHUNK) for at in range(4)], files=(pair.backing_path,))
    options = {"read_iolog": log, "iodepth": 32, "io_mode": "threads", "env": sick.environment}
    done = fio.start(**options)
    line, = [line for line in done.stderr.splitlines() if "4 of its last 4 requests failed" in line]
    assert done.returncode != 0 and "Input/output error" in line
    done = fio.start(**options, continue_on_error="read")
    assert done.returncode == 0, "the user has asked to go on"
    sick.set("")
    assert fio.start(**options).returncode == 0
