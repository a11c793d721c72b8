# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep compare over made-up results: what it could not judge it does not call the same."""

import json
import random

import pytest

from test_gate import CANNOT_TELL, SAME, SLOWER, run

WRONG = 2
VALUES = {"engine": "pcache", "bs": "4k"}


def results(folder, cases, builds=("a", "b"), values=VALUES):
    """A folder of results. cases: {bs: {build: [requests/s of each round, None where it failed] or a function}}."""
    folder.mkdir()
    info = {"schema": "pcache-sweep-run/1", "name": "made-up", "title": "", "axes": ["bs"],
            "cases": [{"id": f"bs={bs}", "values": {**values, "bs": bs}} for bs in cases],
            "builds": [{"label": b, "dir": "/"} for b in builds]}
    (folder / "run.json").write_text(json.dumps(info))
    lines, number = [], 0
    for index, of_builds in enumerate(cases.values()):
        for build, rounds in of_builds.items():
            for repeat, metrics in enumerate(rounds):
                line = {"number": number, "case": index, "build": build, "repeat": repeat, "ok": metrics is not None}
                line |= {"error": "no luck"} if metrics is None else {"metrics": metrics}
                lines.append(json.dumps(line) + "\n")
                number += 1
    (folder / "results.jsonl").write_text("".join(lines))
    return folder


def rounds(n, speed=1.0, noise=0.01, p50=None, seed=1):
    rng = random.Random(f"{seed} {speed} {noise} {p50}")
    for _ in range(n):
        metrics = {"iops": 1e5 * speed * rng.lognormvariate(0, noise), "bytes_per_s": 1e9}
        yield metrics | ({"write": {"lat_ns": {"p50": p50 * rng.lognormvariate(0, 0.01)}}} if p50 else {})


@pytest.mark.parametrize("cases, status, says", [
    ({"4k": {"a": rounds(12), "b": rounds(12, seed=2)}}, SAME, "compare: no case is slower by 5 %\n"),
    ({}, WRONG, "nothing was measured that could be compared"),
    ({"4k": {}}, WRONG, "nothing was measured that could be compared"),
    ({"4k": {"a": rounds(12), "b": [None] * 12}}, WRONG, "nothing was measured that could be compared"),
    ({"4k": {"a": rounds(12), "b": rounds(12, seed=2)}, "8k": {"a": rounds(12), "b": [None] * 12}}, CANNOT_TELL,
     "compare: cannot tell: nothing to compare in bs=8k\n"),
    ({"4k": {"a": rounds(12), "b": rounds(12, seed=2)}, "8k": {}}, CANNOT_TELL, "nothing to compare in bs=8k\n"),
    ({"4k": {"a": [*rounds(12), *[None] * 12], "b": [*[None] * 12, *rounds(12)]}}, WRONG, "no round has both: 12 meas"),
    ({"4k": {"a": rounds(12), "b": rounds(5)}}, CANNOT_TELL, "fewer than 9 rounds have both in bs=4k\n"),
    ({"4k": {"a": rounds(12, 1), "b": rounds(12, 0.8)}, "8k": {"a": rounds(12)}}, SLOWER, "compare: SLOWER: bs=4k\n"),
    # The median latency is the same: that says nothing of the requests per second.
    ({"4k": {"a": rounds(12, 1, 0.5, 9000), "b": rounds(12, 1, 0.5, 9000, 2)}}, CANNOT_TELL,
     "compare: cannot tell: the noise is up to"),
])
def test_what_was_not_judged_is_not_called_the_same(tmp_path, cases, status, says):
    done = run("compare", results(tmp_path / "run", {bs: {b: list(r) for b, r in builds.items()}
                                                     for bs, builds in cases.items()}))
    assert done.returncode == status and says in done.stdout + done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and (status == SAME) == ("no case is slower" in done.stdout)


def test_latency_that_is_too_noisy_is_named_and_no_more(tmp_path):
    def noisy(seed):
        rng = random.Random(seed)
        return [m | {"write": {"lat_ns": {"p50": 9000 * rng.lognormvariate(0, 0.5)}}} for m in rounds(12, seed=seed)]
    done = run("compare", results(tmp_path / "run", {"4k": {"a": noisy(1), "b": noisy(2)}}))
    assert done.returncode == SAME and done.stdout.endswith("; but for what is too noisy to tell: p50 of bs=4k\n")


def test_results_of_two_runs_are_compared_case_by_case(tmp_path):
    one = results(tmp_path / "one", {"4k": {"": list(rounds(12))}, "8k": {"": list(rounds(12))}}, [""])
    same = results(tmp_path / "same", {"8k": {"": list(rounds(12))}, "4k": {"": list(rounds(12, seed=2))}}, [""])
    part = results(tmp_path / "part", {"8k": {"": list(rounds(12))}, "16k": {"": list(rounds(12))}}, [""])
    none = results(tmp_path / "none", {"64k": {"": list(rounds(12))}}, [""])
    two = results(tmp_path / "two", {"4k": {"a": list(rounds(12)), "b": list(rounds(12))}})
    assert run("compare", one, same).returncode == SAME
    done = run("compare", one, part)
    assert done.returncode == CANNOT_TELL and f"nothing to compare in bs=16k of {part}, bs=4k\n" in done.stdout
    for a, b, says in ((one, none, "have no case in common"), (one, two, "has results of 2 builds, expected one")):
        done = run("compare", a, b)
        assert done.returncode == WRONG and says in done.stderr


def put(run_folder, **changes):
    info = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps(info | changes))


LINE = {"number": 0, "case": 0, "build": "a", "repeat": 0, "ok": True, "metrics": {"iops": 1.0, "bytes_per_s": 1.0}}


@pytest.mark.parametrize("file, content", [
    ("run.json", b"\xff"), ("run.json", b"[1]"), ("run.json", b"[" * 100000),
    ("run.json", {"cases": 1}), ("run.json", {"cases": [{"id": 1, "values": []}]}), ("run.json", {"axes": None}),
    ("run.json", {"cases": [{"id": "x", "values": {}}]}), ("run.json", {"builds": [1]}),
    ("results.jsonl", b"\xff\n"), ("results.jsonl", b"1\n"), ("results.jsonl", b"{]\n"),
    ("results.jsonl", {"case": -1}), ("results.jsonl", {"case": 9}), ("results.jsonl", {"repeat": "one"}),
    ("results.jsonl", {"number": None}), ("results.jsonl", {"metrics": []}),
    ("results.jsonl", {"metrics": {"iops": 1}}),
    ("results.jsonl", {"metrics": {"iops": float("nan"), "bytes_per_s": 1}}),
    ("results.jsonl", {"metrics": {"iops": 0, "bytes_per_s": 1}}),
    ("results.jsonl", {"metrics": {"iops": 1, "bytes_per_s": 1, "write": {"lat_ns": {"p50": "fast"}}}}),
])
def test_damaged_results_are_no_verdict(tmp_path, file, content):
    folder = results(tmp_path / "run", {"4k": {"a": list(rounds(12)), "b": list(rounds(12))}})
    if isinstance(content, bytes):
        (folder / file).write_bytes(content)
    elif file == "run.json":
        put(folder, **content)
    else:
        (folder / file).write_text(json.dumps(LINE | content) + "\n")
    done = run("compare", folder)
    assert done.returncode == WRONG and str(folder) in done.stderr, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_damaged_results_are_named_by_the_line(tmp_path):
    folder = results(tmp_path / "run", {"4k": {"a": list(rounds(12)), "b": list(rounds(12))}})
    lines = (folder / "results.jsonl").read_text()
    for damage in {"metrics": []}, {"repeat": "one"}:
        (folder / "results.jsonl").write_text(lines + json.dumps(LINE | damage) + "\n")
        assert f"{folder}/results.jsonl:25: damaged: " in run("compare", folder).stderr
    # A case that nothing was measured of.
    (folder / "results.jsonl").write_text("")
    put(folder, cases=[{"id": "x", "values": {}}])
    assert f"{folder}/run.json: damaged: a case has no engine" in run("compare", folder).stderr


def test_what_nobody_has_thought_of_is_no_verdict(tmp_path):
    """The report needs more of run.json than compare does."""
    done = run("report", results(tmp_path / "run", {"4k": {"a": list(rounds(12)), "b": list(rounds(12))}}))
    assert done.returncode == WRONG and len(done.stderr.splitlines()) == 1
    assert "report: KeyError" in done.stderr and "damaged, or this is a bug" in done.stderr
