# SPDX-License-Identifier: GPL-2.0-or-later
"""bench/limits.py: each of its measurements is made, small; what it cannot do it says in one line; it cleans up."""

import os
import re
import signal
import subprocess

import pytest

from fio import require_engine
from measure import fio as fio_runner
from measure import scratch, sizes
from measure.errors import MeasureError
from measure.libpcache import BUILD, MIB, ROOT, Cache
from measure.limits import command, fragments, keys, rig
from measure.limits.record import Record
from support import wait_until
from test_sweep_signals import hear_ctrl_c, running_in

LIMITS = ROOT / "bench" / "limits.py"
ALL = list(command.LIMITS)
NUMBER = r"-?\d+\.\d+"
SPREAD = rf"{NUMBER} \({NUMBER} to {NUMBER}\), n 2"
ONE = SPREAD.replace("n 2", "n 1")


def bound(rw, fence):
    return [rf"{rw}, 512 MiB against the bound \(fence: {fence}\) over 512 MiB: {SPREAD}",
            rf"the bound \(fence: {fence}\), 512 MiB against 16 MiB: {SPREAD}"]


# The lines of each; n is the number of rounds.
STATES = ["before", *(f"after {n} of 512 B a page" for n in ("0.125", "1", "4", "16")), "after 4 KiB again"]
PRINTED = {
    "large": [rf"randwrite, 512 MiB against 16 MiB: {SPREAD}", *bound("randwrite", "each"), *bound("randwrite", "none"),
              rf"randread, 512 MiB against 16 MiB: {SPREAD}", *bound("randread", "none")],
    "beside": [rf"the {who} beside the other against {what}: {SPREAD}" for who in ("reader", "writer") for what in (
        r"alone, of the bound's \(fence: each\)", "the bound's beside the other")],
    "memory": [rf"65536 extents of 4 KiB, data_crc {crc}: {NUMBER} bytes each, all told" for crc in (0, 1)],
    "attach": [rf"empty, over 512 GiB: {NUMBER} MiB", rf"256 Ki keys of 512 B, seconds: {SPREAD}",
               rf"the same size empty, once its pages exist, seconds: {ONE}"],
    "foreground": [rf"write hits while writeback runs, against without: {SPREAD}; \d+ MiB written back meanwhile",
                   rf"the bound \(fence: none\) while fio writes to the disk at depth 32, against without: {SPREAD}",
                   rf"write hits while writeback runs, against the bound while fio writes: {SPREAD}"],
    "ahead": [rf"bytes per second, {what}: {SPREAD}" for what in ("of those one by one", "of the bound")],
    "miss": [rf"{what}: {SPREAD}" for what in ("requests per second", "CPU time of a request")],
    "fragments": [*(f"{state}: 4 KiB reads against the bound: {SPREAD}" for state in STATES),
                  *(f"{state}: a read takes so many times as long as before, the bound's as often: {SPREAD}"
                    for state in STATES[1:]),
                  *(f"{state}: bytes of index a page: {SPREAD}" for state in STATES)],
    "spread": [*(f"16384 pages {where}: bytes {what}: {ONE}" for where in ("side by side", "over 64 GiB", "over 64 TiB")
                 for what in ("of index each", "each, all told")), f"empty, over 64 TiB, MiB: {ONE}"],
    "sides": [*(f"{rw} hits of a front against role=both: {SPREAD}" for rw in ("randwrite", "randread")),
              f"misses of a front at depth 32 against fio's nbd engine at the same server: {SPREAD}",
              *(f"{what}: a front against role=both: {SPREAD}" for what in (
                  "writes of four times what the cache holds", "the same within a quarter of it"))],
    "drain": [rf"data_crc {crc}: {what}: {SPREAD}" for crc in (0, 1) for what in (
        "all CPUs against one thread", "pages by all CPUs, millions a second")],
    "pages": [*(rf"{rw}, 512 MiB: pages of 2 MiB against {what}: {SPREAD}" for rw in ("randwrite", "randread")
                for what in ("4 KiB", r"the bound's \(fence: none\)")),
              f"the part of the mapping in pages of 2 MiB: {SPREAD}",
              f"attach of a new cache with prefault=attach: pages of 2 MiB against 4 KiB, seconds: {SPREAD}"],
    "keys": [f"{what}, each page {often}, ns of CPU a key: {SPREAD}" for often in ("once", "32 times")
             for what in ("writeback", "reclaim")],
    "batches": [*(rf"4 KiB reads, {n} at a time, against the bound: {SPREAD}" for n in (1, 8, 32)),
                *(rf"{whose}, {n} at a time against one: {SPREAD}" for n in (8, 32)
                  for whose in ("reads", "the bound's"))],
}


@pytest.fixture
def limits(disk, shm):
    """Starts it over two folders of its own; what a test that fails leaves running is killed."""
    require_engine()
    started = []

    def limits(*arguments, **env):
        line = [LIMITS, "--dir", disk, "--shm", shm, *arguments]
        started.append(subprocess.Popen([*map(str, line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, **env}, preexec_fn=hear_ctrl_c))
        return started[-1]
    yield limits
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def bench(disk, shm):
    """A sixteenth of it, in this process."""
    require_engine()
    return rig.Rig(disk, shm, 2, Record(), rig.SMALL)


def left(*folders):
    return [path for folder in folders for path in folder.iterdir()]


def refused(process, status=1):
    """Its one line."""
    out, said = process.communicate(timeout=60)
    assert process.returncode == status and out == "", said
    return said.splitlines()[-1] if status == 2 else said.removesuffix("\n")


def check_lines(out, what):
    lines = out.splitlines()
    assert lines[0] == what and len(lines) == 1 + len(PRINTED[what]), out
    for line, form in zip(lines[1:], PRINTED[what]):
        assert re.fullmatch("  " + form, line), line
        if spread := re.search(rf": ({NUMBER}) \(({NUMBER}) to ({NUMBER})\)", line):
            median, least, most = map(float, spread.groups())
            assert least <= median <= most


@pytest.mark.parametrize("what", [what for what in ALL if what != "fragments"])
def test_each_prints_its_figures(limits, disk, shm, what):
    process = limits(what, "--small", "--rounds", 2)
    out, said = process.communicate(timeout=400)
    assert process.returncode == 0 and said == "", said
    check_lines(out, what)
    assert left(disk, shm) == []


def test_fragments_are_small_too(bench, capsys, monkeypatch):
    """What fio is told; it is not run, for the 36 jobs take long. test_limits_record.py measures."""
    told = []

    def fio(folder, common, job):
        assert folder == bench.folder
        told.append((common["cache_size"], job["size"], job.get("io_size", job["size"])))
        bench.cache.touch()
        if "stats_file" in job:
            (folder / job["stats_file"]).write_text('{"index": {"memory_bytes": 4096}}')
        return {"job": {"jobname": "job", "read": {"iops": 2}, "write": {"iops": 2}}}
    monkeypatch.setattr(fio_runner, "run_jobs", fio)
    bench.record.begin("fragments")
    fragments.measure(bench)
    check_lines(capsys.readouterr().out, "fragments")
    assert len(told) == 36 and {one[:2] for one in told} == {(608 * MIB, 16 * MIB)}
    assert max(volume for _, _, volume in told) == 64 * MIB
    assert not bench.cache.exists() and bench.backing.stat().st_size == 16 * MIB


def test_several_are_made_in_the_order_they_are_named(limits, disk, shm):
    out, _ = (process := limits("keys", "memory", "--small", "--rounds", 3)).communicate(timeout=400)
    assert process.returncode == 0
    assert [line for line in out.splitlines() if not line.startswith(" ")] == ["keys", "memory"]
    assert "n 3" in out and left(disk, shm) == []


def test_help_names_all(limits):
    out, _ = (process := limits("--help")).communicate(timeout=60)
    assert process.returncode == 0 and all(f"\n    {what} " in out for what in ALL)


def test_small_is_a_sixteenth_and_all_of_it_is_all(bench, disk, shm):
    assert bench.scaled(8 << 30, 1 << 18) == (512 * MIB, 1 << 14)
    assert [rig.cache_size(size << 20, 16) >> 20 for size in (512, 2048, 11 << 10)] == [512, 608, 1184]
    whole = rig.Rig(disk, shm, 2, bench.record)
    assert whole.scaled(8 << 30) == (8 << 30,) and whole.cache_size(2 << 30) == 2 << 30


@pytest.mark.parametrize("size, text", [(8 << 40, "8 TiB"), (1 << 50, "1 PiB"), (1 << 60, "1024 PiB"),
                                        (1536 << 20, "1536 MiB"), (512, "512 B")])
def test_sizes_are_named_in_the_greatest_unit_that_holds(size, text):
    assert sizes.size_text(size) == text


# ---- Refused: one line, and nothing made ----

@pytest.mark.parametrize("arguments, text", [
    (["larger"], f"larger: expected {', '.join(ALL)}"),
    (["--rounds", "1"], "--rounds 1: expected 2 or more"),
    (["--rounds", "x"], "argument --rounds: invalid int value: 'x'"),
    (["--small", "--out", "limits.json"],
     "--out with --small: expected one of them, figures of --small are not worth keeping")])
def test_wrong_use(limits, disk, shm, arguments, text):
    assert refused(limits(*arguments), status=2) == f"limits.py: error: {text}"
    assert left(disk, shm) == []


@pytest.mark.parametrize("odd", ["run #1: x", "a;b", "two  words\t"])
def test_folders_that_fio_would_take_for_others(limits, disk, shm, odd):
    """Given with --dir and --shm behind the fixture's own: the last one counts."""
    for parent in (disk, shm):
        (parent / odd).mkdir()
        for cut in ("run", "run ", "run #1", "a", "two"):
            (parent / cut).write_text("precious")
    process = limits("miss", "--small", "--rounds", 2, "--dir", disk / odd, "--shm", shm / odd)
    out, said = process.communicate(timeout=400)
    assert process.returncode == 0 and said == "" and out, said
    for parent in (disk, shm):
        assert left(parent / odd) == []
        assert all(path.read_text() == "precious" for path in parent.iterdir() if path.name != odd)


def test_out_replaces_no_device(limits, disk, shm):
    os.mkfifo(disk / "pipe")
    said = refused(limits("miss", "--out", disk / "pipe"), status=2)
    assert said == f"limits.py: error: --out {disk}/pipe: expected a file in a folder that can be written to"
    assert [path.name for path in left(disk, shm)] == ["pipe"]


@pytest.mark.parametrize("option", ["--dir", "--shm"])
def test_a_folder_that_is_not_there(limits, disk, option):
    assert refused(limits("memory", "--small", option, disk / "no")) == f"limits.py: {disk}/no: no such directory"
    (disk / "file").touch()
    assert "file: no such directory" in refused(limits("memory", "--small", option, disk / "file"))


def test_a_folder_that_cannot_be_written_to(limits):
    said = refused(limits("memory", "--small", "--dir", "/proc/self"))
    assert said.startswith("limits.py: ") and "/proc/self" in said and "\n" not in said


@pytest.fixture
def small(small_shm):
    """A file system of 700 MiB."""
    return small_shm(700)


@pytest.mark.parametrize("what, need", [(["miss", "attach"], 1472), (["large", "keys"], 1184), (["memory"], 864)])
def test_a_folder_without_the_space(limits, small, what, need):
    assert refused(limits(*what, "--small", "--shm", small)) == (
        f"limits.py: {small}: 700 MiB are free, {need} are needed; see --dir, --shm, --small")
    assert left(small) == []


def test_one_folder_for_both_must_hold_both(limits, small):
    """Either alone would do."""
    assert refused(limits("keys", "--small", "--shm", small, "--dir", small)) == (
        f"limits.py: {small}: 700 MiB are free, 704 are needed; see --dir, --shm, --small")


def test_without_fio_or_a_build(limits, tmp_path):
    assert refused(limits("memory", "--small", PATH=str(tmp_path))) == "limits.py: fio is missing: run scripts/setup"
    said = refused(limits("memory", "--small", PCACHE_BUILD=str(tmp_path)))
    assert said == f"limits.py: {tmp_path}/lib/libpcache.so: build it, or set PCACHE_BUILD"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libpcache.so").symlink_to(BUILD / "lib" / "libpcache.so")
    said = refused(limits("memory", "--small", PCACHE_BUILD=str(tmp_path)))
    assert said == f"limits.py: {tmp_path}/lib/libpcache_fio.so: build it, or set PCACHE_BUILD"
    (tmp_path / "lib" / "libpcache.so").unlink()
    (tmp_path / "lib" / "libpcache.so").write_text("not a library")
    said = refused(limits("memory", "--small", PCACHE_BUILD=str(tmp_path)))
    assert said.startswith(f"limits.py: {tmp_path}/lib/libpcache.so: ") and "\n" not in said


@pytest.mark.parametrize("says, text", [
    ("echo 'pcache: cache device x: emulated pmem: is lost' >&2\necho 'fio: no' >&2\necho 'fio: and why' >&2\nexit 1",
     "fio: no; fio: and why"),
    ("echo 'fio: no'\nexit 1", "fio: no"), ("exit 3", "exit status 3"), ("kill -9 $$", "exit status -9")])
def test_what_fio_says_against_it_is_one_line(limits, disk, shm, tmp_path, says, text):
    (tmp_path / "fio").write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit\n{says}\n')
    (tmp_path / "fio").chmod(0o755)
    process = limits("beside", "--small", PATH=f"{tmp_path}:{os.environ['PATH']}")
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (1, "beside\n", f"limits.py: fio: {text}\n")
    assert left(disk, shm) == []


def test_a_job_too_short_for_fios_clock():
    job = {"jobname": "job", "read": {"iops": 0}, "write": {"iops": 0}, "usr_cpu": 1.0, "sys_cpu": 0}
    with pytest.raises(MeasureError, match="^fio: job job: too short for what it measures with$"):
        fio_runner.iops(job)
    job = job | {"read": {"iops": 8}, "sys_cpu": 3.0}
    assert fio_runner.iops(job) == 8 and fio_runner.cpu_each(job) == 0.5
    with pytest.raises(MeasureError, match="^fio: job job: too short"):
        fio_runner.cpu_each(job | {"usr_cpu": 0, "sys_cpu": 0})


def test_reclaim_that_does_not_come_is_not_waited_for_for_ever(bench, disk, shm, monkeypatch):
    monkeypatch.setattr(Cache, "set_gc_percent", lambda *_: None)
    monkeypatch.setattr(keys, "RECLAIM_SECONDS", 0)
    with pytest.raises(MeasureError, match="^keys: 0 of 256 keys are reclaimed after 0 s$"):
        keys.measure(bench, 256)


# ---- Ended from outside ----

@pytest.mark.parametrize("how, status, text", [(signal.SIGINT, 130, "limits.py: interrupted\n"),
                                               (signal.SIGTERM, 143, "limits.py: terminated\n")])
@pytest.mark.parametrize("what", ["beside", "attach", "keys"])
def test_it_ends_when_told_and_leaves_nothing(limits, disk, shm, what, how, status, text):
    process = limits(what, "--small", "--rounds", 100000)
    wait_until(lambda: [path for path in shm.glob("*/cache") if path.stat().st_size >= 512 * MIB])
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status and said == text
    assert left(disk, shm) == []
    wait_until(lambda: running_in(disk) == [])  # SIGKILL has been sent; whom fio forked is no child of ours


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_break_off_cleaning_up(disk, shm, how, monkeypatch):
    """It comes while the first folder is removed."""
    cleanup = scratch.tempfile.TemporaryDirectory.cleanup

    def told_again(folder):
        signal.raise_signal(how)
        cleanup(folder)
    monkeypatch.setattr(scratch.tempfile.TemporaryDirectory, "cleanup", told_again)
    before = signal.getsignal(how)
    with pytest.raises(KeyboardInterrupt):
        with scratch.new_folders(disk, shm) as made:
            assert [path.parent for path in made] == [disk, shm]
            raise KeyboardInterrupt
    assert left(disk, shm) == [] and signal.getsignal(how) == before
