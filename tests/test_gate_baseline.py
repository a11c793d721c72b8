# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep gate: what its baseline says and holds; nothing is measured here."""

import json

import pytest

from measure import gate
from measure.errors import MeasureError
from measure.estimates import Estimate
from measure.libpcache import BUILD
from test_gate import COUNTS, run
from test_verdict_files import NO_DOUBTS

ONE = COUNTS["write"]
RATIO = {"median": 0.9, "low": 0.88, "high": 0.92, "n": 15}


@pytest.fixture
def baseline(tmp_path):
    """Of two requests and one case."""
    return store(tmp_path, {"schema": "pcache-gate/1", "threshold": 0.25, "rounds": 15, "compiler": "cc 1",
                            "counts": {"write": ONE, "read": ONE}, "ratios": {"a CPU": {"w": RATIO}}})


def store(folder, content):
    path = folder / "gate.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def judged(baseline, monkeypatch, capsys):
    """gate with these options, over made-up counts and ratios; (exit status, what it said)."""
    def run_gate(*options, now=("write", "read"), instructions=1000.0, compiler="cc 1", ratios=None, cpu="a CPU"):
        monkeypatch.setattr(gate.request_counts, "names", lambda _: list(now))
        monkeypatch.setattr(gate.request_counts, "count", lambda *_: {**ONE, "instructions": instructions})
        monkeypatch.setattr(gate.request_counts, "compiler", lambda _: compiler)
        monkeypatch.setattr(gate, "measure_ratios", lambda *_: (ratios or {}, cpu, NO_DOUBTS))
        status = gate.main(["--baseline", str(baseline), "--build", str(BUILD), *options])
        return status, capsys.readouterr().out
    return run_gate


def test_accepting_some_counts_leaves_the_others(baseline, judged):
    assert judged("--counts", "--only", "^write$", "--accept", "why", instructions=900.0)[0] == 0
    content = json.loads(baseline.read_text())
    assert content["counts"] == {"write": {**ONE, "instructions": 900.0}, "read": ONE}
    assert content["ratios"] and content["reason"] == "why"
    assert [p.name for p in baseline.parent.iterdir()] == ["gate.json"], "nothing is left beside it"


def test_a_baseline_is_replaced_whole_or_not_at_all(baseline, judged):
    """Whoever has it open reads the old one to its end; and where no file can be made, it stays what it was."""
    with open(baseline, encoding="utf-8") as old:
        before = baseline.read_text()
        assert judged("--counts", "--accept", "why", instructions=900.0)[0] == 0
        assert old.read() == before != baseline.read_text()


def test_counts_of_two_compilers_are_not_mixed(baseline, judged):
    before = baseline.read_text()
    with pytest.raises(MeasureError, match="are of cc 1, this build is of cc 2; accept all of them"):
        judged("--counts", "--only", "^write$", "--accept", "why", compiler="cc 2")
    assert baseline.read_text() == before
    assert judged("--counts", "--accept", "why", compiler="cc 2")[0] == 0


@pytest.mark.parametrize("more", [[], ["--accept", "why"]])
def test_only_that_matches_nothing_is_an_error(judged, more):
    with pytest.raises(MeasureError, match="--only 'wrote': no request has such a name"):
        judged("--counts", "--only", "wrote", *more)


def test_a_request_that_is_gone_is_worse(judged):
    status, said = judged("--counts", "--only", "read", now=["write"])
    assert status == 1 and "WORSE  read: is not counted any more" in said


@pytest.mark.parametrize("options, more, last", [
    (["--counts"], {}, "ok"),
    (["--counts"], {"now": ("write", "read", "trim")}, "nothing is worse of what was judged; not judged: trim"),
    (["--counts"], {"compiler": "cc 2"}, "nothing is worse of what was judged; not judged: instructions"),
    (["--counts"], {"instructions": 1100.0}, "FAIL"),
    (["--ratios"], {"ratios": {"w": Estimate(15, 0.9, 0.89, 0.91)}}, "ok"),
    (["--ratios"], {"ratios": {"w": Estimate(15, 0.2, 0.1, 0.3)}}, "FAIL"),
    (["--ratios"], {"ratios": {"w": Estimate(15, 0.9, 0.4, 1.4)}}, "not judged: the ratio of w"),
    (["--ratios"], {"ratios": {"w": Estimate(15, 0.9, 0.89, 0.91), "r": Estimate(15, 1, 1, 1)}},
     "not judged: the ratio of r, which the baseline does not have"),
    (["--ratios"], {"cpu": "another"}, "not judged: ratios to the bound"),
    (["--ratios"], {}, "FAIL"),
    ([], {"ratios": {"w": Estimate(15, 0.9, 0.89, 0.91)}}, "ok"),
])
def test_ok_is_said_when_all_was_judged(judged, options, more, last):
    status, said = judged(*options, **more)
    line = said.splitlines()[-1]
    assert line.startswith("gate: FAIL: " if last == "FAIL" else "gate: ") and (last == "FAIL" or line.endswith(last))
    assert status == (last == "FAIL") and ("gate: ok" in said) == (last == "ok")


DAMAGE = [
    (lambda b: [b], "schema list, expected pcache-gate/1"),
    (lambda b: {**b, "threshold": "much"}, 'threshold: expected a number between 0 and 1, found "much"'),
    (lambda b: {**b, "threshold": float("nan")}, "threshold: expected a number between 0 and 1, found NaN"),
    (lambda b: {**b, "rounds": 0}, "rounds: expected a number from 1 to 1000, found 0"),
    (lambda b: {**b, "compiler": 12}, "compiler: expected a name, found 12"),
    (lambda b: {k: v for k, v in b.items() if k != "counts"}, "counts: expected a table, found null"),
    (lambda b: {**b, "counts": {"write": 1}}, "counts: write: expected a table, found 1"),
    (lambda b: {**b, "counts": {"write": {**ONE, "fences": None}}},
     "counts: write: fences: expected a number, found null"),
    (lambda b: {**b, "counts": {"write": {"fences": 1}}}, "counts: write: instructions: expected a number, found null"),
    (lambda b: {**b, "ratios": []}, "ratios: expected a table, found []"),
    (lambda b: {**b, "ratios": {"a CPU": {"w": {**RATIO, "low": float("nan")}}}},
     "ratios: a CPU: w: low: expected a number, found NaN"),
]


@pytest.mark.parametrize("damage, says", DAMAGE)
def test_a_damaged_baseline_is_named(tmp_path, baseline, damage, says):
    path = store(tmp_path, damage(json.loads(baseline.read_text())))
    with pytest.raises(MeasureError) as wrong:
        gate.load(path)
    assert str(wrong.value).startswith(f"{path}: {says}")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[" * 100000, b'{"schema": "pcache-gate/1"}'])
def test_a_baseline_that_is_none_is_no_verdict(tmp_path, content):
    (tmp_path / "gate.json").write_bytes(content)
    done = run("gate", "--baseline", tmp_path / "gate.json")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and str(tmp_path) in done.stderr
