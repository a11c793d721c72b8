# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-microbench from outside: every benchmark runs, counts are exact, wrong arguments are named."""

import json
import os
import re
import subprocess

import pytest

from measure.libpcache import BUILD

PROGRAM = BUILD / "bin" / "pcache-microbench"
# One small one of each kind; the largest need gigabytes and minutes.
SOME = "(persist/.*/size:(512|1048576)|crc32c/size:64|index/.*:65536|log/.*keys:(1|65536)|request/.*)(/|$)"


def run(*arguments, ok=True, **more):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=400, check=False,
                          **more)
    assert (done.returncode == 0) == ok, done.stderr
    return done


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("micro") / "out.json"
    run(f"--benchmark_filter={SOME}", "--benchmark_min_time=0.001", f"--benchmark_out={out}")
    return json.loads(out.read_text())


def test_every_kind_runs_and_says_what_it_did(results):
    names = [b["name"] for b in results["benchmarks"]]
    assert not [b for b in results["benchmarks"] if b.get("error_occurred")]
    for kind in ("persist/flushcache/random/fence", "persist/memcpy/sequential/no_fence", "crc32c", "index/insert",
                 "index/lookup", "index/overwrite", "log/append_and_close", "log/replay", "request/write_hit",
                 "request/read_hit", "request/read_of_8_pieces"):
        assert any(name.startswith(kind) for name in names), kind
    for b in results["benchmarks"]:
        assert b["iterations"] > 0 and b["real_time"] > 0
        assert "bytes_per_second" in b or "items_per_second" in b, b["name"]
    assert results["context"]["persist"]
    assert re.fullmatch(r"([0-9a-f]{12}|unknown)(-dirty)?", results["context"]["commit"])


def test_counted_flushes_and_fences(results):
    by_name = {re.sub("/iterations:.*", "", b["name"]): b for b in results["benchmarks"]}
    if flushed := by_name.get("persist/clflushopt/random/fence/size:512"):  # the CPU has it
        assert (flushed["flushes"], flushed["fences"]) == (8, 1)
    streamed = by_name["persist/flushcache/sequential/no_fence/size:512"]
    assert (streamed["flushes"], streamed["fences"]) == (0, 0)
    # A FUA write: its data, the kset's body and the next header under one fence, then its commit; a fence for the data
    # alone until the stripe is biased to the thread.
    assert 2 <= by_name["request/write_fua/size:4096/crc:0"]["fences"] <= 3
    # A plain write: none of its own once its stripe is biased to the thread, and two for every kset of 128 keys.
    assert 0 < by_name["request/write_hit/size:4096/crc:0"]["fences"] < 1.1
    assert by_name["index/insert/extents:65536"]["bytes_per_extent"] < 20


def test_counts_are_the_same_every_time():
    case = "write_hit/size:4096/crc:0"
    assert case in run("--list_counts").stdout.split()
    operations = 8192
    counts = [json.loads(run(f"--count={case}", f"--operations={operations}").stdout) for _ in range(2)]
    assert counts[0] == counts[1]
    # Two fences for each kset of 128 keys, and one for each write until its stripe is biased to the thread, after 33 of
    # them; each of the 16 ranges has its own open kset, and at most its own stripe. A kset is streamed, but for the
    # lines at its ends, and the words that commit it.
    least, most = operations // 128 - 16, operations // 128
    assert 2 * least < counts[0]["fences"] <= 2 * most + 16 * 33
    assert 2 * least <= counts[0]["flushes"] <= 5 * most
    assert counts[0]["allocations"] == 0


@pytest.mark.parametrize("arguments, text", [
    (["--foo"], "--foo: unknown argument"),
    (["--count=nothing"], "--count=nothing: no such case; --list_counts names them"),
    (["--count=write_hit/size:4096/crc:0", "--operations=0"], "expected a number, 1 or more"),
    (["--count=write_hit/size:4096/crc:0", "--operations=1x"], "expected a number, 1 or more"),
    (["--count=write_hit/size:65536/crc:0", "--operations=100000000"], "there is room for"),
    (["--count=write_hit/size:4096/crc:0", "--persist=magic"], "persist=magic: unknown method"),
    (["--count=read_hit/size:4096/crc:0", "--pmem_dir=/nowhere"], "cannot make a file in /nowhere: No such file"),
    (["--count=read_hit/size:4096/crc:0", "--backing_dir=/nowhere"], "cannot make a file in /nowhere: No such file"),
    (["--persist=magic"], "persist=magic: unknown method"),
])
def test_wrong_arguments_are_named(arguments, text):
    done = run(*arguments, ok=False)
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nothing_is_left_behind(tmp_path):
    run("--count=write_hit/size:4096/crc:0", f"--pmem_dir={tmp_path}", f"--backing_dir={tmp_path}")
    assert os.listdir(tmp_path) == []
