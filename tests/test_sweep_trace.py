# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep with traces: what is replayed, what is reported of it, and what is refused."""

import os
import bz2
import csv
import gzip
import json
import lzma

import pytest

from measure.libpcache import MIB, ROOT
from measure.report import published_traces
from test_sweep import lines_of, run, write

SPEC = """\
name: traces
repeats: 1
common:
  persist: flushcache
matrix:
"""
BYTES = "W 0 4096\nR 0 8192\nR 4096 4096\nW 8192 512\nW 0 512\nR 1099511627776 4096\n"
KEPT = ROOT / "results" / "sweeps" / "traces"


def spec_of(folder, *matrices, **more):
    """Of a trace named `trace`, unless a matrix says otherwise."""
    lists = [{"trace": "trace", **one} for one in (matrices or [{}])]
    return write(folder, SPEC + "".join(f"  - {json.dumps(one | more)}\n" for one in lists))


def refused(folder, content, says, options=("--dry-run",), **parameters):
    """In one line, before anything is made."""
    if content is not None:
        (folder / "trace").write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run("run", spec_of(folder, **parameters), *options, ok=2, cwd=folder)
    assert says.replace("TRACE", str(folder / "trace")) in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path.name for path in folder.iterdir()} <= {"trace", "spec.yaml", "disk"}


def replayed(folder, shm, *matrices, files):
    """{case: metrics} of a run over traces that are written first."""
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    run("run", spec_of(folder, *matrices), "--output", folder / "out", "--backing-dir", folder, "--cache-dir", shm,
        "--quiet")
    results = lines_of(folder / "out")
    assert all(result["ok"] for result in results), results
    return {result["case"]: result["metrics"] for result in results}


# ---- What is asked ----

IOLOG = "fio version 2 iolog\nx add\nx open\n"


@pytest.mark.parametrize("trace, says", [
    ("", "TRACE: is empty; expected a trace"),
    ("\n# nothing\n\n", "TRACE: has no request"),
    ("fio version 3 iolog\n0 x add\n", "TRACE: has no request"),
    ("hello\n", "TRACE:1: found `hello`, expected the first line of a trace: `R|W OFFSET LENGTH`, a block"),
    ("fio version 1 iolog\n", "TRACE:1: found `fio version 1 iolog`, expected the first line"),
    ("time,op,lba\n", "TRACE:1: found `time,op,lba`, expected the first line"),
    (bytes(range(1, 10)) + b"\xff" * 100, "TRACE:1: found `????????"),
    (b"x" * 5000, "TRACE:1: a line of more than 4096 bytes"),
    ("1\n# two\n2\nthree\n", "TRACE:4: found `three`, expected a block's number"),
    ("1\n2 3\n", "TRACE:2: found `2 3`, expected a block's number"),
    ("1\n-2\n", "TRACE:2: found `-2`, expected a block's number"),
    ("1\n4611686018427387904\n", "TRACE:2: found `4611686018427387904`, expected a block's number, below 2^62"),
    ("W 0 4096\nX 0 4096\n", "TRACE:2: found `X 0 4096`, expected `R|W OFFSET LENGTH`, in bytes"),
    ("W 0 4096\nR 0\n", "TRACE:2: found `R 0`, expected `R|W OFFSET LENGTH`, in bytes"),
    ("W 0 4096 7\n", "TRACE:1: found `W 0 4096 7`, expected `R|W OFFSET LENGTH`"),
    ("R 0 0\n", "TRACE:1: found `0`, expected a length: a multiple of 512 from 512 to 64m"),
    ("R 0 700\n", "TRACE:1: found `700`, expected a length: a multiple of 512"),
    ("R 0 128m\n", "TRACE:1: found `128m`, expected a length"),
    ("R 0 134217728\n", "TRACE:1: found `134217728`, expected a length: a multiple of 512 from 512 to 64m"),
    ("R 100 512\n", "TRACE:1: found `100`, expected an offset: a multiple of 512 below 2^62"),
    ("R -512 512\n", "TRACE:1: found `-512`, expected an offset"),
    ("R 9223372036854775808 512\n", "TRACE:1: found `9223372036854775808`, expected an offset: a multiple of 512"),
    (IOLOG + "x read 0\n", "TRACE:4: found `x read 0`, expected `FILE ACTION [OFFSET LENGTH]`"),
    (IOLOG + "x erase 0 512\n", "TRACE:4: found `erase`, expected `FILE ACTION"),
    (IOLOG + "x read 0 100\n", "TRACE:4: found `100`, expected a length"),
    (IOLOG + "y read 0 512\n", "TRACE:4: found `y`, expected the device of the lines before, `x`: give each device a"),
    (IOLOG.replace("2", "3"), "TRACE:2: found `x add`, expected `TIME FILE ACTION"),
    (gzip.compress(b"1\n", mtime=0), "TRACE: is packed by gzip; expected text, plain or packed by xz"),
    (bz2.compress(b"1\n"), "TRACE: is packed by bzip2"),
    (lzma.compress(b"1\n" * 9999)[:-20], "TRACE: is packed by xz, and its end is missing"),
    (lzma.compress(b"1\n" * 9999)[:30] + bytes(9) + lzma.compress(b"1\n" * 9999)[39:], "TRACE: is packed by xz, and"),
    (b"\xfd7zXZ\0", "TRACE: is packed by xz, and its end is missing"),
])
def test_a_bad_trace_is_refused_with_its_line(tmp_path, trace, says):
    refused(tmp_path, trace, says, block_bytes="1m")


@pytest.mark.parametrize("trace, parameters, says", [
    (None, {}, "cannot read TRACE: No such file or directory"),
    (None, {"trace": "."}, ": expected a file, found a folder"),
    ("1\n", {}, "TRACE: is a sequence of blocks; block_bytes must say how many bytes one is"),
    ("1\n", {"block_bytes": "0"}, "TRACE: is a sequence of blocks; block_bytes must say"),
    ("1\n", {"block_bytes": 1000}, "block_bytes: `1000`: expected 0, or a size from 512 to 16m, a multiple of 512"),
    ("1\n", {"block_bytes": "32m"}, "block_bytes: `32m`: expected 0, or a size"),
    ("1\n", {"requests": -1}, "requests: `-1`: expected a number from 0 to 10000000"),
    ("1\n", {"cache_share": 0}, "cache_share: `0`: expected none, or a number from 0.001 to 1"),
    ("1\n", {"cache_share": 1.5}, "cache_share: `1.5`: expected none, or a number from 0.001 to 1"),
    ("1\n", {"cache_share": 0.5, "block_bytes": "16m"}, "TRACE: cache_share 0.5 of its 16 MiB is 8 MiB; the smallest "
     "cache keeps 287 with gc_percent 70; give a larger share, or cache_size"),
    ("R 0 4096\nW 409600000 1048576\n", {"cache_share": 0.5}, "TRACE: cache_share 0.5 of its 1 MiB is 0 "
     "MiB; the smallest cache keeps 287 with gc_percent 70; give block_bytes of 2296k or more"),
    ("1\n", {"cache_share": 0.5, "block_bytes": "1m", "gc_percent": 90}, "gc_percent 90: expected 50 to 70"),
    ("1\n", {"engine": "bound"}, "engine bound keeps no data of a device, and replays no trace"),
    ("1\n", {"engine": "libpmem"}, "engine libpmem keeps no data of a device, and replays no trace"),
    ("R 0 65536\n", {"block_bytes": "16m"}, "a request of 65536 bytes becomes one of 256m, expected 64m or less"),
    ("".join(f"R {n << 26} {1 << 26}\n" for n in range(65)), {"block_bytes": "16m"},
     "touches 1064960 blocks of 16m, expected no more than 16t; give less block_bytes or requests"),
])
def test_wrong_parameters_of_a_trace_are_refused(tmp_path, trace, parameters, says):
    refused(tmp_path, trace, says, **parameters)


def test_a_trace_that_is_larger_than_its_place_is_refused(tmp_path):
    text = "".join(f"{n}\n" for n in range(100_000))
    refused(tmp_path, text, "cache_share, block_bytes and requests", (), block_bytes="16m")
    (tmp_path / "disk").write_bytes(bytes(16 * MIB))
    refused(tmp_path, "0\n999\n3\n17\n200\n", "expected a block device or a file of 20m or more, found 16m",
            ("--backing", tmp_path / "disk", "--overwrite"), block_bytes="4m")


def test_what_a_trace_does_not_look_at_makes_no_case(tmp_path):
    write(tmp_path, BYTES, "trace")
    spec = spec_of(tmp_path, engine=["pcache", "uring"], rw=["read", "write"], bs=["4k", "8k"], data_crc=[0, 1],
                   cache_size=["512m", "1g"])
    assert "5 cases, 5 measurements" in run("run", spec, "--dry-run").stdout, "2 x 2 of the cache, one of the disk"


def test_its_path_begins_at_the_spec(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path, BYTES, "trace")
    spec = spec_of(tmp_path / "deep", trace=os.path.join(os.pardir, "trace"))
    assert "1 cases" in run("run", spec, "--dry-run", cwd="/").stdout


# ---- What comes of it ----

def test_a_loop_that_fits_misses_once_and_fifo_never_hits_one_of_twice_its_size(tmp_path, shm):
    """The second is a block sequence of 640 MiB, packed, and of its three rounds the first two; 288 MiB are kept."""
    large = lzma.compress("".join(f"{n}\n" for n in range(160)).encode() * 3)
    found = replayed(tmp_path, shm, {"block_bytes": "1m", "cache_size": "512m"},
                     {"trace": "large.xz", "block_bytes": "4m", "requests": 320, "cache_share": 0.45,
                      "policy": "fifo"},
                     files={"trace": "".join(f"{n}\n" for n in range(100, 132)) * 4, "large.xz": large})
    small = found[0]["replay"]
    assert small["hit_ratio"] == small["read_hit_ratio"] == small["whole_read_hits"] == 0.75
    assert small["model"] == {"fifo": 0.75, "lru": 0.75}
    assert small["backing_read_bytes"] == small["cached_bytes"] == small["bytes"] == 32 * MIB
    assert small["backing_written_bytes"] == small["dirty_bytes"] == small["not_kept_bytes"] == 0
    assert "write_amplification" not in small and 32 * MIB < small["pmem_bytes"] < 32.1 * MIB
    assert found[0]["read"]["ios"] == 128 and found[0]["read"]["lat_ns"]["p50"] > 0
    twice = found[1]["replay"]
    # What finds no space while reclaim is behind, on a busy machine, is not kept, and something older is for longer.
    assert twice["hit_ratio"] < 0.02 and twice["model"] == {"fifo": 0, "lru": 0}
    assert twice["requested_bytes"] == 2 * 640 * MIB
    assert twice["backing_read_bytes"] == pytest.approx(2 * 640 * MIB, rel=0.02)
    assert twice["capacity_bytes"] == pytest.approx(0.45 * 640 * MIB, rel=0.03)
    assert 0.8 * twice["capacity_bytes"] < twice["cached_bytes"] < 1.1 * twice["capacity_bytes"]
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [fact["is_cut"] for fact in info["traces"]] == [False, True]
    assert info["cases"][1]["values"]["cache_size"] == "512m", "what the share has led to"
    assert not [path for path in (tmp_path / "out" / "raw").iterdir() if path.suffix in (".iolog", ".log")]
    _check_report(tmp_path)


def _check_report(folder):
    run("report", folder / "out")
    with open(folder / "out" / "report" / "traces-miss-ratios.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["here"] for row in rows] == ["0.2500", "1.0000"]
    assert [row["trace"] for row in rows] == ["trace", "large, the first 320"]
    assert [row["FIFO, computed"] for row in rows] == ["0.2500", "1.0000"]
    assert rows[0]["FIFO"] == rows[1]["FIFO"] == "", "nothing is published of them"
    with open(folder / "out" / "report" / "traces-traces.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["read hits"] == "0.7500" and rows[0]["from backing MiB"] == "32.0" and rows[0]["mean µs"]
    assert "<h3>Traces</h3>" in (folder / "out" / "report" / "report.html").read_text()


def test_a_request_that_is_partly_cached_counts_by_its_bytes(tmp_path, shm):
    """As it is, and as whole blocks of 8 KiB for each page of 4."""
    one_kset = {"cache_size": "512m", "flush_delay_ms": 60000}
    found = replayed(tmp_path, shm, one_kset, {**one_kset, "block_bytes": "8k"}, files={"trace": BYTES})
    exact, whole = found[0]["replay"], found[1]["replay"]
    assert exact["bytes"] == 4 * 4096, "pages 0, 1, 2 and one far away"
    assert exact["requested_bytes"] == 4096 * 5 + 1024
    assert exact["read_hit_ratio"] == (4096 + 4096) / 16384, "half of the first, the second, nothing of the third"
    assert exact["whole_read_hits"] == pytest.approx(1 / 3)
    assert exact["write_hit_ratio"] == pytest.approx(512 / 5120)
    assert exact["hit_ratio"] == pytest.approx((8192 + 512) / (16384 + 5120))
    assert exact["cached_bytes"] == 4096 * 3 + 512
    # Two fills and three writes, a key of 40 bytes each.
    assert exact["pmem_bytes"] == 8192 + 5120 + 5 * 40
    assert exact["write_amplification"] == pytest.approx(exact["pmem_bytes"] / 5120)
    assert whole["bytes"] == 4 * 8192 and whole["requested_bytes"] == 7 * 8192
    assert whole["hit_ratio"] == pytest.approx(3 / 7) == whole["model"]["fifo"]
    assert whole["write_hit_ratio"] == pytest.approx(1 / 3)


def test_the_formats_say_the_same(tmp_path, shm):
    """And flushes of an iolog are done, trims left out."""
    requests = [("write", 0, 4096), ("read", 0, 8192), ("write", 1 << 40, 1024)]
    simple = "# a comment\n\n" + "".join(f"{what[0].upper()}\t{off} {n}\r\n" for what, off, n in requests)
    lines = [f"x {what} {off} {n}" for what, off, n in requests] + ["x sync 0 0", "x trim 0 4096"]
    second = "\n".join(["fio version 2 iolog", "x add", "x open", "x wait 100", *lines, "x close"])
    third = "\n".join(["fio version 3 iolog", "0 x add", *(f"{n} {line}" for n, line in enumerate(lines))])
    files = {"trace": simple, "2": second, "3": third, "xz": lzma.compress(second.encode()) + lzma.compress(b"\n")}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    spec = spec_of(tmp_path, trace=list(files), cache_size="512m")
    done = run("run", spec, "--output", tmp_path / "out", "--backing-dir", tmp_path, "--cache-dir", shm, "--quiet")
    assert sorted(line for line in done.stderr.splitlines() if "left out" in line) == [
        f"pcache-sweep: {name}: left out: 1 trims, of which the cache has none" for name in ("2", "3", "xz")]
    kept = ("bytes", "requested_bytes", "hit_ratio", "read_hit_ratio", "write_hit_ratio", "backing_read_bytes")
    found = [{name: result["metrics"]["replay"][name] for name in kept} for result in lines_of(tmp_path / "out")]
    assert len(found) == 4 and all(one == found[0] for one in found)
    statuses = [json.loads(path.read_text()) for path in (tmp_path / "out" / "raw").glob("*.status")]
    assert sorted(status["requests"]["flushes"] for status in statuses) == [0, 1, 1, 1]


def test_the_disk_replays_it_too_and_a_run_goes_on_with_the_same_trace_alone(tmp_path, shm):
    found = replayed(tmp_path, shm, {"engine": ["pcache", "uring"], "cache_size": "512m"}, files={"trace": BYTES})
    assert "hit_ratio" not in found[1]["replay"] and found[1]["read"]["ios"] == found[1]["write"]["ios"] == 3
    resume = ["run", "--resume", tmp_path / "out", "--repeats", 2, "--quiet"]
    write(tmp_path, BYTES + "R 0 512\n", "trace")
    done = run(*resume, ok=2)
    assert f"{tmp_path}/trace: is not what it was when {tmp_path}/out was begun" in done.stderr
    write(tmp_path, BYTES, "trace")
    run(*resume, cwd="/")
    assert len(lines_of(tmp_path / "out")) == 4
    run("report", tmp_path / "out")


# ---- What is shipped ----

def test_the_published_miss_ratios_are_those_of_their_source():
    table = {}
    for line in (ROOT / "bench" / "traces" / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[1].startswith("0."):
            table.setdefault(cells[0], {})[cells[1]] = [float(cell) for cell in cells[2:]]
        elif line.startswith("| trace | share"):
            assert cells[2:] == published_traces.POLICIES
    assert table == published_traces.TABLE and len(table) == 8 == len(published_traces.BLOCKS)


def test_each_shipped_trace_names_the_blocks_that_its_ratios_are_of():
    for name, blocks in published_traces.BLOCKS.items():
        (path,) = (ROOT / "bench" / "traces").glob(f"{name}.*.xz")
        lines = lzma.open(path, "rt").read().splitlines()
        named = set()
        for line in lines:
            if line[0] not in "RW":
                named.add(line)
                continue
            off, length = map(int, line.split()[1:])
            named.update(range(off // 4096, (off + length - 1) // 4096 + 1))
        assert len(named) == blocks, name


def test_fifo_and_lru_as_computed_are_as_published():
    """Of the kept run, the traces that were replayed whole."""
    info = json.loads((KEPT / "run.json").read_text())
    whole = {fact["trace"] for fact in info["traces"] if not fact["is_cut"]}
    compared = 0
    for result in lines_of(KEPT):
        case, values = info["cases"][result["case"]], info["cases"][result["case"]]["values"]
        if values["trace"] in whole:
            name = values["trace"].split("/")[-1].split(".")[0]
            model = result["metrics"]["replay"]["model"]
            known = published_traces.TABLE[name][values["cache_share"]]
            assert 1 - model["fifo"] == pytest.approx(known[0], abs=2e-4), case["id"]
            assert 1 - model["lru"] == pytest.approx(known[2], abs=2e-4), case["id"]
            compared += 1
    assert compared == 15
