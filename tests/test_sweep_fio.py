# SPDX-License-Identifier: GPL-2.0-or-later
"""What fio reports and does not mean: pcache-sweep over a fio that says what it is told to."""

import copy
import json
import os
import subprocess
import sys

import pytest

from test_sweep import HEAD, SWEEP, lines_of, write

# Of one second of reads, as fio 3.33 writes it.
DIRECTION = {"total_ios": 1000, "io_bytes": 4096000, "runtime": 1000, "iops": 1000.0, "bw_bytes": 4096000,
             "short_ios": 0, "drop_ios": 0, "lat_ns": {"min": 0, "max": 0, "mean": 0, "stddev": 0, "N": 0}}
JOB = {"jobname": "measure", "error": 0, "read": DIRECTION, "write": {**DIRECTION, "total_ios": 0}, "usr_cpu": 1.0,
       "sys_cpu": 1.0, "ctx": 1, "job_runtime": 1000}
FIO = """\
#!{python}
import os, sys
output = [a.split("=", 1)[1] for a in sys.argv if a.startswith("--output=")]
if output:
    open(output[0], "w").write(os.environ["SAYS"])
else:
    print("fio-3.33")
"""


@pytest.fixture
def measured(tmp_path):
    """The line of results.jsonl of a run in which fio says this."""
    write(tmp_path, FIO.format(python=sys.executable), "fio").chmod(0o755)

    def measure(parameters="", **changes):
        job = copy.deepcopy(JOB)
        for key, value in changes.items():
            where, _, name = key.partition("__")
            if name:
                job.setdefault(where, {})[name] = value
            else:
                job[where] = value
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        spec = write(tmp_path, HEAD + "matrix: {engine: uring, cache_size: 512m, working_set: 0.002, rw: randread"
                     f"{parameters}}}\n")
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SAYS": json.dumps({"jobs": [job]})}
        done = subprocess.run([SWEEP, "run", spec, "--output", folder, "--backing-dir", tmp_path, "--cache-dir",
                               tmp_path], env=env, capture_output=True, text=True, timeout=100, check=False)
        (line,) = lines_of(folder)
        assert done.returncode == (0 if line["ok"] else 1), done.stderr
        return line
    return measure


def test_a_whole_measurement_counts(measured):
    line = measured()
    assert line["ok"] and line["metrics"]["iops"] == 1000 and line["load_average"] >= 0
    assert measured(read__runtime=950)["ok"], "the last request may come earlier"


@pytest.mark.parametrize("changes, says", [
    ({"read__runtime": 300, "job_runtime": 300}, "ran 300 ms, expected 1000ms: fio has ended it before its time"),
    ({"read__short_ios": 3}, "fio reports 3 short_ios of read, expected none"),
    ({"write__drop_ios": 1}, "fio reports 1 drop_ios of write, expected none"),
    ({"error": 5}, "fio reports error 5"),
])
def test_what_is_not_what_was_asked_for_is_refused(measured, changes, says):
    line = measured(**changes)
    assert not line["ok"] and says in line["error"]


def test_a_volume_ends_before_the_time(measured):
    assert measured(", volume: 0.01", read__runtime=300)["ok"]


@pytest.mark.parametrize("sync, flush", [
    ({"total_ios": 7, "lat_ns": {"N": 7, "mean": 5.0, "min": 1, "max": 9}},
     {"ios": 7, "lat_ns": {"mean": 5.0, "min": 1, "max": 9}}),
    ({"total_ios": 0, "lat_ns": {"N": 7, "mean": 5.0, "min": 1, "max": 9}},  # as with fdatasync=
     {"ios": 7, "lat_ns": {"mean": 5.0, "min": 1, "max": 9}}),
    ({"total_ios": 7, "lat_ns": {"N": 0}}, {"ios": 7}),  # gtod_reduce
    ({"total_ios": 0, "lat_ns": {"N": 0}}, None),
])
def test_flushes_are_counted_where_fio_has_them(measured, sync, flush):
    assert measured(sync=sync)["metrics"].get("flush") == flush
