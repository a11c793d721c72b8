# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep from outside: files that are wrong, runs, resuming, reports in a browser."""

import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import pytest

from measure.judge import LEAST_ROUNDS
from measure.libpcache import BUILD, ROOT
from support import wait_until

SWEEP = BUILD / "bin" / "pcache-sweep"
SMALL = """\
name: small
title: A small sweep
runtime: 200ms
repeats: 2
common:
  cache_size: 512m
  working_set: 0.02
matrix:
  - engine: [pcache, bound]
    rw: [randwrite, randread]
    bs: [4k, 16k, 64k]
"""
SMALLER = SMALL.replace("[4k, 16k, 64k]", "4k")
HEAD = "name: x\nruntime: 1s\nrepeats: 1\n"


def run(*arguments, ok=0, **more):
    done = subprocess.run([SWEEP, *map(str, arguments)], capture_output=True, text=True, timeout=400, check=False,
                          **more)
    assert done.returncode == ok, done.stderr
    return done


def write(folder, text, name="spec.yaml"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def small_shm(shm_parent):
    """A folder in memory that no other sweep uses: several tests may run at a time."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"pcache-test-{os.getpid()}-", dir=shm_parent))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory, small_shm):
    """A finished run."""
    folder = tmp_path_factory.mktemp("sweep")
    run("run", write(folder, SMALL), "--output", folder / "run", "--backing-dir", folder, "--cache-dir", small_shm,
        cwd=folder)
    return folder / "run"


def lines_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


# ---- What is asked ----

@pytest.mark.parametrize("text, line, says", [
    ("name: [\n", 2, "end of sequence"),
    ("[]\n", 1, "expected `key: value` lines"),
    ("", 1, "expected `key: value` lines"),
    ("name: x\nname: y\n", 2, "`name` is given twice"),
    ("name: a/b\n", 1, "expected letters, digits, - and _"),
    ("name: x\nruntime: soon\n", 2, "expected a time from 0.1s to 1440m"),
    ("name: x\nruntime: 1s\nrepeats: 0\n", 3, "expected a number from 1 to 1000"),
    ("name: x\nruntime: 1s junk\n", 2, "`1s junk`: expected a time"),
    ("name: x\nruntime: 1 s s\n", 2, "expected a time"),
    ("name: x\nwarmup: soon\n", 2, "expected a time from 0s"),
    ("name: x\nwarmup: 1e\n", 2, "expected a time from 0s"),
    (HEAD + "matrix: {bs: 4k}\n---\nname: y\n", 6, "a second document"),
    (HEAD, 1, "`matrix:` is missing"),
    (HEAD + "matrx: {bs: 4k}\n", 4, "unknown key `matrx`"),
    (HEAD + "matrix: {}\n", 4, "the matrix is empty"),
    (HEAD + "matrix: []\n", 4, "the matrix is empty"),
    (HEAD + "matrix: {bs: []}\n", 4, "an empty list"),
    (HEAD + "matrix:\n  bss: 4k\n", 5, "unknown parameter `bss`"),
    (HEAD + "matrix:\n  bs: [4k,\n    5]\n", 6, "bs: `5`: expected a size from 512 to 16m, a multiple of 512"),
    (HEAD + "matrix: {bs: [4k, 4096]}\n", 4, "`4096` is there twice"),
    (HEAD + "matrix: {bs: [4k, 4KiB]}\n", 4, "`4KiB` is there twice"),
    (HEAD + "matrix: {bs: 4KB}\n", 4, "`4KB`: expected a size from 512 to 16m, a multiple of 512 (k and KiB: 1024)"),
    (HEAD + "matrix: {bs: 1024ib}\n", 4, "`1024ib`: expected a size"),
    (HEAD + "matrix:\n\tbs: 4k\n", 5, "a tab before the text; YAML wants blanks there"),
    (HEAD + "matrix:\n  bs: 4k\n  \trw: read\n", 6, "a tab before the text"),
    (HEAD + "matrix: {bs: {a: b}}\n", 4, "expected a value or a list of values"),
    (HEAD + "matrix: {rw: trim}\n", 4, "rw: `trim`: expected read, write"),
    (HEAD + "matrix: {working_set: nan}\n", 4, "expected a number from 0.001 to 1000"),
    (HEAD + "matrix: {gc_percent: 91}\n", 4, "expected a number from 0 to 90"),
    (HEAD + "matrix: {ranges: all}\n", 4, "ranges: `all`: expected shared or own"),
    (HEAD + "matrix: {engine: disk}\n", 4, "expected pcache, bound, uring (or io_uring), libpmem or path:/DEVICE"),
])
def test_a_wrong_file_is_an_error_that_names_the_line(tmp_path, text, line, says):
    spec = write(tmp_path, text)
    done = run("run", spec, "--dry-run", ok=2)
    assert done.stderr.startswith(f"pcache-sweep: {spec}:{line}: ") and says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments, says", [
    (["run"], "run needs a preset"),
    (["run", "nothing.yaml"], "cannot read nothing.yaml"),
    (["run", "SPEC", "--build", "/tmp"], "/tmp/lib/libpcache_fio.so: is not there"),
    (["run", "SPEC", "--cache-dir", "/nowhere"], "/nowhere: No such file"),
    (["run", "SPEC", "--backing", "SPEC"], "its content will be lost; --overwrite"),
    (["run", "SPEC", "--backing", "/dev/null", "--overwrite"], "/dev/null: expected a block device or a file, found"),
    (["run", "SPEC", "--backing", "/dev", "--overwrite"], "/dev: expected a block device or a file, found a folder"),
    (["run", "SPEC", "--cache-dev", "/dev", "--overwrite"], "/dev: expected a pmem device or a file, found a folder"),
    (["run", "PATHS"], "/dev/null: expected a block device or a file, found a character device"),
    (["run", "PATH_FILE"], "its content will be lost; --overwrite"),
    (["run", "SPEC", "--output", "."], "is there already"),
    (["run", "--resume", "nothing"], "cannot read"),
    (["run", "."], ".: expected a file, found a folder"),
    (["run", "FIFO"], "expected a file, found a pipe"),
    (["run", "/dev/zero"], "/dev/zero: expected a file, found a character device"),
    (["run", "HUGE"], "expected a file of 1m or less, found 3g"),
    (["compare", "SPEC"], "is no folder; expected one that pcache-sweep run has made"),
    (["report", "SPEC"], "is no folder; expected one that pcache-sweep run has made"),
    (["gate", "--baseline", "/dev/zero"], "/dev/zero: expected a file, found a character device"),
    (["gate", "--baseline", "FIFO"], "expected a file, found a pipe"),
    (["run", "SPEC", "--repeats", "0"], "--repeats 0: expected 1 to 1000"),
    (["run", "SPEC", "--repeats", "-1"], "--repeats -1: expected 1 to 1000"),
    (["run", "SPEC", "--repeats", "two"], "--repeats"),
    (["run", "SPEC", "--runtime", "0"], "--runtime 0.000000: expected 0.1 to 86400 seconds"),
    (["run", "SPEC", "--runtime", "nan"], "--runtime nan: expected"),
    (["run", "--resume", ".", "--runtime", "1"], "--runtime has no effect with --resume"),
    (["run", "--resume", ".", "--output", "x"], "--output has no effect with --resume"),
    (["run", "--resume", ".", "--build", "x"], "--build has no effect with --resume"),
    (["run", "SPEC", "--foo"], "--foo"),
    (["run", "SPEC", "--dry-run", "--resume", "x"], "run needs a preset"),
    (["run", "NOT_HERE", "--overwrite"], "this machine cannot measure any of its cases: /nowhere/disk: No such file"),
    (["report", "nothing"], "nothing/run.json: is not there"),
])
def test_wrong_arguments_are_named(tmp_path, arguments, says):
    spec = write(tmp_path, SMALL)
    paths = write(tmp_path, HEAD + "matrix: {engine: 'path:/dev/null'}\n", "paths.yaml")
    path_file = write(tmp_path, HEAD + f"matrix: {{engine: 'path:{spec}'}}\n", "path_file.yaml")
    not_here = write(tmp_path, HEAD + "matrix: {engine: 'path:/nowhere/disk'}\n", "not_here.yaml")
    os.mkfifo(tmp_path / "fifo")
    os.truncate(write(tmp_path, "", "huge.yaml"), 3 << 30)
    given = {"SPEC": spec, "PATHS": paths, "PATH_FILE": path_file, "NOT_HERE": not_here, "FIFO": tmp_path / "fifo",
             "HUGE": tmp_path / "huge.yaml"}
    done = run(*(given.get(a, a) for a in arguments), ok=2, cwd=tmp_path)
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert spec.read_text() == SMALL and not (tmp_path / "results").exists()


def test_text_that_is_not_utf8_is_named_before_anything_is_made(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_bytes(SMALL.encode().replace(b"small sweep", b"\xfc sweep"))
    done = run("run", spec, "--output", tmp_path / "run", "--backing-dir", tmp_path, ok=2)
    assert f"{spec}:2: expected UTF-8" in done.stderr and len(done.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["spec.yaml"]


@pytest.mark.parametrize("run_json", ["[]", "{", '{"schema": 1}', '{"schema": "pcache-sweep-run/1"}',
                                      '{"schema": "x"}'])
def test_a_damaged_run_is_not_resumed(tmp_path, run_json):
    write(tmp_path, run_json, "run.json")
    write(tmp_path, "", "results.jsonl")
    done = run("run", "--resume", tmp_path, ok=2)
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("pcache-sweep: ")


def test_every_preset_can_be_planned():
    presets = sorted((ROOT / "configs").glob("*.yaml"))
    assert len(presets) >= 1
    for preset in presets:
        done = run("run", preset, "--plan")
        assert re.search(r"[1-9]\d* cases, [1-9]\d* measurements", done.stdout), preset


def test_the_order_is_fair_and_follows_from_the_seed(tmp_path):
    plan = run("run", write(tmp_path, SMALL), "--plan").stdout
    assert plan == run("run", write(tmp_path, SMALL), "--plan").stdout
    other = run("run", write(tmp_path, SMALL + "seed: 2\n"), "--plan").stdout
    assert plan != other
    rounds = collections.defaultdict(list)
    for number, text in re.findall(r"round (\d+)  (.*)", plan):
        rounds[number].append(text)
    assert len(rounds) == 2 and sorted(rounds["0"]) == sorted(rounds["1"]) and rounds["0"] != rounds["1"]
    assert len(set(rounds["0"])) == len(rounds["0"]) == 12


@pytest.mark.parametrize("rounds", [11, 12])
def test_each_of_two_builds_comes_first_in_half_the_rounds(tmp_path, rounds):
    for seed in range(1, 6):
        spec = write(tmp_path, SMALL.replace("repeats: 2", f"repeats: {rounds}") + f"seed: {seed}\n")
        plan = run("run", spec, "--plan", "--build", BUILD, "--build", BUILD).stdout
        order = collections.defaultdict(str)
        for number, case, build in re.findall(r"round (\d+)  (.*)  build (.)", plan):
            order[case, number] += build
        for case in {case for case, _ in order}:
            first_a = sum(order[case, str(r)] == "ab" for r in range(rounds))
            assert abs(first_a - rounds / 2) <= 1, (seed, case)


def test_what_an_engine_does_not_look_at_makes_no_case(tmp_path):
    text = HEAD + "matrix: {engine: [pcache, bound, uring], persist: [flushcache, auto], data_crc: [0, 1]}\n"
    done = run("run", write(tmp_path, text), "--dry-run")
    assert "7 cases, 7 measurements" in done.stdout, "2 x 2 of the cache, 2 of the bound, one of the disk"


def test_own_ranges_need_room_for_a_request_of_each_thread(tmp_path):
    text = HEAD + "matrix: {bs: 1m, numjobs: 8, ranges: own, cache_size: 512m, working_set: 0.01}\n"
    done = run("run", write(tmp_path, text), "--dry-run", ok=2)
    assert "a working set of 5m has no request of 1m for each of 8 threads; give more working_set" in done.stderr


def test_one_thread_has_the_same_range_either_way(tmp_path):
    text = HEAD + "matrix: {numjobs: [1, 2], ranges: [shared, own]}\n"
    assert "3 cases, 3 measurements" in run("run", write(tmp_path, text), "--dry-run").stdout


def test_a_dry_run_is_short_and_has_the_forecast_that_the_run_begins_with(tmp_path):
    spec = write(tmp_path, SMALL.replace("bs: [4k, 16k, 64k]", "bs: [4k, 16k, 64k]\n    numjobs: [1, 2, 3, 4]"))
    here = "--backing-dir", tmp_path
    done = run("run", spec, "--dry-run", *here)
    lines = done.stdout.splitlines()
    assert len(lines) == 24 and lines[20] == "and 28 more; --plan lists all measurements in their order"
    forecast = re.fullmatch(r"48 cases, 96 measurements, about (\d+:\d+)", lines[21])[1]
    assert run("run", spec, "--plan", *here).stdout.splitlines()[-2] == lines[21]
    assert lines[22] == f"2 rounds: compare judges from {LEAST_ROUNDS} on; as many are made by --rounds {LEAST_ROUNDS}"
    assert lines[23] == f"pmem: a file of 512m in /dev/shm; backing device: a file of 10m in {tmp_path}"
    tiny = write(tmp_path, HEAD.replace("1s", "200ms") + "matrix: {cache_size: 512m, working_set: 0.02}\n", "tiny.yaml")
    forecast = re.search(r"about (\S+)", run("run", tiny, "--dry-run", *here).stdout)[1]
    done = run("run", tiny, "--output", tmp_path / "out", *here)
    assert done.stderr.startswith(f"pcache-sweep: 0 of 1, {forecast} left\n")
    assert run("run", tiny, "--dry-run", "--rounds", 9, *here).stdout.splitlines()[-2].startswith("1 cases, 9 meas")


@pytest.mark.parametrize("options, says", [
    (["--build", "/tmp"], "/tmp/lib/libpcache_fio.so: is not there"),
    (["--cache-dir", "/nowhere"], "/nowhere: No such file"),
    (["--backing", "SPEC"], "its content will be lost; --overwrite"),
    (["--backing", "SPEC", "--overwrite"], "expected a block device or a file of 16m or more, found"),
    (["--cache-dev", "/dev/null", "--overwrite"], "/dev/null: expected a pmem device or a file of 1g or more"),
])
def test_a_dry_run_finds_what_a_run_would(tmp_path, options, says):
    spec = write(tmp_path, HEAD + "matrix: {working_set: 0.0156251}\n")
    options = [spec if one == "SPEC" else one for one in options]
    said = [run("run", spec, *more, *options, ok=2).stderr for more in (["--dry-run"], ["--output", tmp_path / "out"])]
    assert said[0] == said[1] and says in said[0] and len(said[0].splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_names_that_fio_has_mean_the_same(tmp_path):
    ours = write(tmp_path, HEAD + "matrix: {engine: [pcache, uring], rw: [rw, read], bs: [4k, 8k],"
                 " distribution: zipf:1.2}\n", "ours.yaml")
    fios = write(tmp_path, HEAD + "matrix: {ioengine: [pcache, io_uring], readwrite: [readwrite, read],"
                 " blocksize: [4k, 8k], random_distribution: zipf:1.2}\n", "fios.yaml")
    plan = run("run", ours, "--plan").stdout
    assert plan == run("run", fios, "--plan").stdout and "engine=uring" in plan and "rw=rw" in plan
    twice = write(tmp_path, HEAD + "matrix:\n  bs: 4k\n  blocksize: 8k\n", "twice.yaml")
    said = run("run", twice, "--plan", ok=2).stderr
    assert f"{twice}:6: `blocksize`: bs is given by another name, too" in said
    same = write(tmp_path, HEAD + "matrix: {engine: [uring, io_uring]}\n", "same.yaml")
    assert "`io_uring` is there twice" in run("run", same, "--plan", ok=2).stderr


# ---- What comes of it ----

def test_threads_have_the_ranges_they_are_given(tmp_path):
    text = (HEAD + "matrix: {engine: [pcache, uring], numjobs: 2, ranges: [shared, own], cache_size: 512m,"
            " working_set: 0.125, rw: randread, fill: empty, iodepth: 4}\n")
    run("run", write(tmp_path, text), "--output", tmp_path / "out", "--quiet")
    jobs = {path.read_text().splitlines()[0]: path.read_text() for path in (tmp_path / "out/raw").glob("*.fio")}
    assert len(jobs) == 4
    for what, job in jobs.items():
        assert ("size=33554432\n" in job and "offset_increment=33554432\n" in job) == ("ranges=own" in what), what
        assert ("size=67108864\n" in job and "offset_increment" not in job) == ("ranges=shared" in what), what
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert len(results) == 4 and all(r["ok"] for r in results)


def test_a_run_keeps_everything(small):
    info = json.loads((small / "run.json").read_text())
    assert info["schema"] == "pcache-sweep-run/2" and info["spec"] == SMALL
    assert {"name", "title", "started", "runtime_s", "warmup_s", "repeats", "seed", "axes", "cases", "builds", "host",
            "harness"} <= info.keys()
    assert {"cpu", "memory", "kernel", "fio", "pmem", "backing", "load_average"} <= info["host"].keys()
    assert info["host"]["cpu"]["model"] and info["builds"][0]["commit"]
    assert info["axes"] == ["engine", "rw", "bs"]
    results = lines_of(small)
    assert len(results) == 24 and all(r["ok"] for r in results)
    for r in results:
        raw = small / "raw" / f"{r['number']:05}"
        fio = json.loads(raw.with_suffix(".json").read_text())
        (measured,) = [j for j in fio["jobs"] if j["jobname"] == "measure"]
        values = info["cases"][r["case"]]["values"]
        direction = values["rw"].removeprefix("rand")
        assert r["metrics"][direction]["ios"] == measured[direction]["total_ios"] > 0
        assert r["metrics"]["iops"] == pytest.approx(measured[direction]["iops"])
        assert 0 < r["metrics"][direction]["lat_ns"]["p50"] <= r["metrics"][direction]["lat_ns"]["max"]
        job = raw.with_suffix(".fio").read_text()
        assert f"bs={values['bs']}" in job and f"rw={values['rw']}" in job
    assert not list((small / "raw").glob("*.log"))


def test_nothing_else_is_left_behind(small, small_shm):
    assert sorted(p.name for p in small.parent.iterdir()) == ["run", "spec.yaml"]
    assert not list(small_shm.iterdir())


def test_an_interrupted_run_goes_on(tmp_path):
    spec = write(tmp_path, SMALLER)
    out = tmp_path / "run"
    process = subprocess.Popen([SWEEP, "run", spec, "--output", out, "--backing-dir", tmp_path], stderr=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    wait_until(lambda: (out / "results.jsonl").exists() and len(lines_of(out)) >= 2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and f"run --resume {out} goes on" in said
    before = lines_of(out)
    assert 2 <= len(before) < 8
    assert not list(tmp_path.glob("pcache-sweep-*")), "scratch files are gone"
    # As a cut in the middle of a line leaves it.
    with open(out / "results.jsonl", "a", encoding="ascii") as file:
        file.write('{"number": 99, "ca')
    run("run", "--resume", out, "--backing-dir", tmp_path)
    after = lines_of(out)
    assert after[:len(before)] == before
    assert sorted(r["number"] for r in after) == list(range(8))


def test_a_killed_run_is_cleaned_up_by_the_next(tmp_path, shm):
    """In a folder of its own: the next of another test would clean it up in /dev/shm."""
    spec = write(tmp_path, SMALLER)
    places = ["--backing-dir", tmp_path, "--cache-dir", shm]
    process = subprocess.Popen([SWEEP, "run", spec, "--output", tmp_path / "run", *places],
                               stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "run" / "results.jsonl").exists)
    process.kill()
    process.wait()
    left = list(shm.glob(f"pcache-sweep-{process.pid}-*"))
    assert left and list(tmp_path.glob("pcache-sweep-*"))
    run("run", "--resume", tmp_path / "run", *places)
    assert not left[0].exists() and not list(tmp_path.glob("pcache-sweep-*"))


@pytest.mark.parametrize("plugin, why", [
    (b"no library", ""),
    ((BUILD / "lib" / "libpcache_raw.so").read_bytes(), "Bad option <"),  # as that of an older build
], ids=["no-plugin", "an-older-one"])
def test_a_measurement_that_fails_is_said_and_the_rest_goes_on(tmp_path, plugin, why):
    """A folder that looks like a build, whose plugin is none, or does not know an option."""
    (tmp_path / "bad" / "lib").mkdir(parents=True)
    (tmp_path / "bad" / "lib" / "libpcache_fio.so").write_bytes(plugin)
    text = HEAD.replace("1s", "300ms") + "common: {cache_size: 512m, working_set: 0.01}\n"
    text += "matrix: {engine: [pcache, uring]}\n"
    done = run("run", write(tmp_path, text), "--build", tmp_path / "bad", "--output", tmp_path / "run", "--backing-dir",
               tmp_path, ok=1)
    results = lines_of(tmp_path / "run")
    assert [r["ok"] for r in sorted(results, key=lambda r: r["case"])] == [False, True]
    assert f"engine=pcache: {why}" in done.stderr and "1 measurements failed; --resume" in done.stderr


NOT_HERE = "^pcache-sweep: .* and 1 more: left out: /nowhere/disk: No such file or directory$"


def test_what_cannot_be_measured_here_is_not_counted(tmp_path):
    """Nor its time: the last line said that minutes were left. What it needs is not asked for: no machine has that."""
    spec = write(tmp_path, HEAD.replace("1s", "300ms") + """\
matrix:
  - {engine: bound, rw: randwrite, bs: [4k, 64k], cache_size: 512m, working_set: 0.02}
  - {engine: 'path:/nowhere/disk', rw: randwrite, bs: [4k, 64k], cache_size: 8t, working_set: 1}
""")
    dry = run("run", spec, "--dry-run")
    assert re.search(NOT_HERE, dry.stderr, re.M) and "2 cases, 2 measurements, about 0:0" in dry.stdout
    folder = tmp_path / "run"
    said = run("run", spec, "--overwrite", "--output", folder, "--backing-dir", tmp_path, cwd=tmp_path).stderr
    assert re.search(NOT_HERE, said, re.M) and "pcache-sweep: 0 of 2, " in said
    assert ("pcache-sweep: 2 of 2, 0:00 left\n"
            "pcache-sweep: 2 of 4 cases were left out, as was said at the start\n") in said
    numbers = [line["number"] for line in lines_of(folder)]
    assert len(numbers) == 2
    # Another round, in the reverse order: the numbers are those of the whole plan.
    run("run", "--resume", folder, "--repeats", 2, "--overwrite")
    assert sorted(line["number"] for line in lines_of(folder)) == sorted({*numbers, *(7 - n for n in numbers)})


def test_a_device_that_has_come_since_needs_leave_to_be_overwritten(tmp_path):
    device, folder = tmp_path / "disk", tmp_path / "run"
    spec = write(tmp_path, HEAD.replace("1s", "300ms") + f"""\
common: {{rw: randwrite, cache_size: 512m, working_set: 0.02}}
matrix: {{engine: [bound, 'path:{device}']}}
""")
    run("run", spec, "--overwrite", "--output", folder, "--backing-dir", tmp_path, cwd=tmp_path)
    assert len(lines_of(folder)) == 1
    device.write_bytes(bytes(16 << 20))
    assert "its content will be lost; --overwrite says that it may be" in run("run", "--resume", folder, ok=2).stderr
    assert len(lines_of(folder)) == 1 and not any(device.read_bytes())
    run("run", "--resume", folder, "--overwrite")
    assert len(lines_of(folder)) == 2 and any(device.read_bytes())


def test_each_case_has_a_cache_of_its_size(tmp_path):
    text = HEAD.replace("1s", "300ms") + "matrix: {cache_size: [512m, 1g], working_set: 0.01, volume: 0.5}\n"
    run("run", write(tmp_path, text), "--output", tmp_path / "run", "--backing-dir", tmp_path)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    for r in lines_of(tmp_path / "run"):
        size = {"512m": 1 << 29, "1g": 1 << 30}[info["cases"][r["case"]]["values"]["cache_size"]]
        status = json.loads((tmp_path / "run" / "raw" / f"{r['number']:05}.status").read_text())
        assert status["segments"]["total"] == (size - (20 << 10)) // (16 << 20)


@pytest.mark.parametrize("ms, counts", [(9, False), (10, True)])
def test_a_measurement_too_short_for_the_clock_does_not_count(tmp_path, ms, counts):
    """By what fio says, which is put into its mouth: how long it really takes depends on the machine."""
    fio = write(tmp_path, f"""#!/bin/sh
{shutil.which("fio")} "$@" || exit
[ "$1" = --version ] || sed -i 's/"runtime" : [1-9][0-9]*/"runtime" : {ms}/' "${{2#--output=}}"
""", "fio")
    fio.chmod(0o755)
    text = HEAD + "matrix: {engine: bound, cache_size: 512m, working_set: 0.01, volume: 0.05}\n"
    done = run("run", write(tmp_path, text), "--output", tmp_path / "run", "--backing-dir", tmp_path,
               ok=0 if counts else 1, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    (result,) = lines_of(tmp_path / "run")
    assert result["ok"] == counts
    if not counts:
        assert re.match(r"took 9 ms, expected 10 or more, .*give more volume$", result["error"])
        assert result["error"] in done.stderr


# ---- Reports ----

@pytest.fixture(scope="module")
def report(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    run("report", small, "--output", out)
    return out


def test_a_report_has_its_tables_and_figures_beside_it(report):
    page = (report / "report.html").read_text()
    assert "<title>A small sweep</title>" in page and "Not measured" not in page
    assert page.count("<figure") == len(list(report.glob("*.png"))) >= 5
    assert not re.search(r'(?:src|href)="(?!#)(?!data:)[^"]', page), "refers to nothing outside itself"
    cases = (report / "small-cases.csv").read_text().splitlines()
    assert len(cases) == 13 and cases[0].startswith("case,n,requests/s,interval,MiB/s,ratio to bound,")
    for text in ("12 cases, 2 measurements of each", "Ratio to the bound", "Latency", "Machine", "request size (bytes)",
                 "latency (µs)", "less their range"):
        assert text in page, text


def test_a_report_can_be_read_in_a_browser(report, tmp_path):
    chromium = shutil.which("chromium")
    assert chromium, "scripts/setup installs chromium"
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}", "--window-size=1200,900",
         "--virtual-time-budget=5000", "--dump-dom", (report / "report.html").as_uri()],
        capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    # As the browser has understood it: all figures are drawings, all rows are rows.
    assert done.stdout.count("<svg") == len(list(report.glob("*.png")))
    assert done.stdout.count("</tr>") > 12 and "</html>" in done.stdout


def test_results_of_every_schema_can_be_read(tmp_path):
    """A folder of each schema that there was, as it was written then; without raw/."""
    kept = sorted((ROOT / "tests" / "testdata" / "sweeps").iterdir())
    schemas = [json.loads((k / "run.json").read_text())["schema"] for k in kept]
    assert schemas == ["pcache-sweep-run/1", "pcache-sweep-run/2"]
    for folder in kept:
        run("report", folder, "--output", tmp_path / folder.name)
        cases = (tmp_path / folder.name / f"{folder.name}-cases.csv").read_text().splitlines()
        assert len(cases) > 3 and cases[1].split(",")[1] == "3"


def test_the_sweeps_that_are_kept_can_be_drawn(tmp_path):
    kept = sorted((ROOT / "results" / "sweeps").iterdir())
    assert kept
    for folder in kept:
        run("report", folder, "--output", tmp_path / folder.name)
        assert (tmp_path / folder.name / "report.html").stat().st_size > 10000
        assert not re.search("/(home|root|work)/", (folder / "run.json").read_text()), "says where it was made"


def test_what_was_not_measured_is_said(small, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(small, copy)
    results = [r for r in lines_of(copy) if r["case"] != 5]
    (copy / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in results))
    run("report", copy)
    page = (copy / "report" / "report.html").read_text()
    missing = json.loads((copy / "run.json").read_text())["cases"][5]["id"]
    assert "Not measured" in page and missing in page and "1 of 12 cases" in page


def test_a_damaged_result_is_named(small, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(small, copy)
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**info, "schema": "pcache-sweep-run/9"}))
    assert "schema pcache-sweep-run/9, expected pcache-sweep-run/1" in run("report", copy, ok=2).stderr
    (copy / "run.json").write_text(json.dumps(info)[:100])
    assert "run.json: " in run("report", copy, ok=2).stderr
    (copy / "run.json").write_text(json.dumps(info))
    (copy / "results.jsonl").write_text("{}\n")
    assert "damaged" in run("report", copy, ok=2).stderr
    (copy / "results.jsonl").write_text("")
    assert "there is nothing to draw" in run("report", copy, ok=2).stderr
    os.remove(copy / "run.json")
    assert "is not there; expected a folder that pcache-sweep run has made" in run("report", copy, ok=2).stderr
