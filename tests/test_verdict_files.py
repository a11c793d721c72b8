# SPDX-License-Identifier: GPL-2.0-or-later
"""What gate and compare write for a CI, read by others: JUnit by junitparser, Markdown by GitHub's own cmark."""

import json

import cmarkgfm
import junitparser
import pytest
from cmarkgfm.cmark import Options

from measure import compare, gate
from measure.doubts import Doubts
from measure.errors import MeasureError
from measure.estimates import Estimate
from measure.libpcache import BUILD
from measure.machine import machine_key
from measure.outcome import Check, Exit, Findings, Outcome
from measure.outcome_files import as_json, as_junit, as_markdown
from test_compare import results, rounds
from test_gate import CANNOT_TELL, COUNTS, SAME, SLOWER, run

WRONG = 2
NO_DOUBTS = Doubts([], [], [], [], {}, 2)
ONE = COUNTS["write"]
NASTY = "a|b <b>c</b> `d` *e* \x00\x1b[1m _f_ & \"g\""


def made(status, outcomes, is_strict=False):
    checks = [Check("counts", f"{NASTY} {number}", outcome, outcome.value, NASTY)
              for number, outcome in enumerate(outcomes)]
    return Findings("gate", {"commit": "0123"}, checks, [], status, "a headline", is_strict)


def read_junit(text):
    """{test: [kinds of its results]}, and the numbers of all."""
    found = junitparser.JUnitXml.fromstring(text.encode())
    return ({case.name: [type(one).__name__ for one in case.result] for suite in found for case in suite},
            (found.tests, found.failures, found.errors, found.skipped))


def rendered(text):
    """HTML in it stays HTML."""
    return cmarkgfm.github_flavored_markdown_to_html(text, Options.CMARK_OPT_UNSAFE)


def cells_of(html):
    """The rows of all tables in rendered Markdown."""
    return [row.split("</td>")[:-1] for row in html.split("<tr>")[1:] if "<td" in row]


def test_junit_says_of_each_check_what_became_of_it():
    every = [Outcome.PASSED, Outcome.FAILED, Outcome.UNJUDGED, Outcome.PASSED]
    found, numbers = read_junit(as_junit(made(Exit.WORSE, every)))
    assert list(found.values()) == [[], ["Failure"], ["Skipped"], []] and numbers == (4, 1, 0, 1)
    found, numbers = read_junit(as_junit(made(Exit.WORSE, every, is_strict=True)))
    assert list(found.values()) == [[], ["Failure"], ["Failure"], []] and numbers == (4, 2, 0, 0)
    found, numbers = read_junit(as_junit(made(Exit.ERROR, [])))
    assert found == {"gate": ["Error"]} and numbers == (1, 0, 1, 0)
    # What was found before the error stays; it is no success.
    found, numbers = read_junit(as_junit(made(Exit.ERROR, [Outcome.PASSED])))
    assert numbers == (2, 0, 1, 0)


def test_markdown_is_one_table_row_a_check_and_nothing_in_it_is_markup():
    text = as_markdown(made(Exit.WORSE, [Outcome.PASSED, Outcome.FAILED, Outcome.UNJUDGED]))
    html = rendered(text)
    rows = cells_of(html)
    assert [len(row) for row in rows] == [4, 4, 4], "a | in a name ends no cell"
    assert "<b>c" not in html and "<em>" not in html and "<code>" not in html and "&lt;b&gt;c" in html
    assert html.index("Worse") < html.index("Not judged") < html.index("<details>"), "what failed comes first"
    assert html.startswith("<h3>❌ pcache-sweep gate: a headline</h3>")


def test_a_long_list_in_markdown_has_an_end_and_says_so():
    html = rendered(as_markdown(made(Exit.WORSE, [Outcome.FAILED] * 100)))
    assert len(cells_of(html)) == 60 and "and 40 more" in html


@pytest.mark.parametrize("status, outcomes, verdict, mark", [
    (Exit.OK, [Outcome.PASSED], "ok", "✅"),
    (Exit.OK, [Outcome.PASSED, Outcome.UNJUDGED], "ok in part", "⚠️"),
    (Exit.WORSE, [Outcome.FAILED], "worse", "❌"),
    (Exit.CANNOT_TELL, [Outcome.UNJUDGED], "cannot tell", "⚠️"),
    (Exit.ERROR, [], "error", "❌"),
])
def test_ok_is_the_verdict_when_all_was_judged(status, outcomes, verdict, mark):
    found = made(status, outcomes)
    content = json.loads(as_json(found))
    assert content["verdict"] == verdict and content["exit_status"] == status
    assert as_markdown(found).startswith(f"### {mark} ")


# ---- compare ----

def two_builds(folder, speed=1.0, noise=0.01, p50_noise=None):
    def with_latency(seed):
        return [m if p50_noise is None else m | {"write": {"lat_ns": {"p50": 9000 * p50_noise ** (i % 3)}}}
                for i, m in enumerate(rounds(12, speed if seed == 2 else 1.0, noise, seed=seed))]
    return results(folder, {"4k": {"a": with_latency(1), "b": with_latency(2)}})


def files(folder):
    return {name: folder / f"verdict.{name}" for name in ("json", "junit", "markdown")}


def options_for(paths):
    return [part for name, path in paths.items() for part in (f"--{name}", path)]


@pytest.mark.parametrize("speed, noise, status, verdict, kinds", [
    (1.0, 0.01, SAME, "ok", []),
    (0.8, 0.01, SLOWER, "worse", ["Failure"]),
    (1.0, 0.5, CANNOT_TELL, "cannot tell", ["Skipped"]),
])
def test_compare_writes_what_it_says(tmp_path, speed, noise, status, verdict, kinds):
    paths = files(tmp_path)
    done = run("compare", two_builds(tmp_path / "run", speed, noise), *options_for(paths))
    assert done.returncode == status, done.stderr
    content = json.loads(paths["json"].read_text())
    assert (content["schema"], content["verdict"], content["exit_status"]) == ("pcache-verdict/1", verdict, status)
    assert f"compare: {content['headline']}" in done.stdout.splitlines()
    (check,) = content["checks"]
    assert check["figures"]["ratio"]["low"] <= check["figures"]["ratio"]["median"] <= check["figures"]["ratio"]["high"]
    assert check["figures"]["ratio"]["n"] == 12 and check["text"] in done.stdout
    assert read_junit(paths["junit"].read_text())[0] == {"bs=4k": kinds}
    html = rendered(paths["markdown"].read_text())
    assert [cell.split(">")[-1] for cell in cells_of(html)[0]][:3] == ["requests/s", "bs=4k", check["verdict"]]


def test_strict_fails_for_a_latency_that_cannot_be_told(tmp_path):
    folder = results(tmp_path / "run", {"4k": {
        "a": [m | {"write": {"lat_ns": {"p50": 9000}}} for m in rounds(12)],
        "b": [m | {"write": {"lat_ns": {"p50": 9000 * (1 + i % 3)}}} for i, m in enumerate(rounds(12, seed=2))]}})
    assert run("compare", folder).returncode == SAME
    done = run("compare", folder, "--strict", "--junit", tmp_path / "x.xml")
    assert done.returncode == CANNOT_TELL and "too noisy to tell: p50 of bs=4k" in done.stdout
    junit = (tmp_path / "x.xml").read_text()
    assert read_junit(junit)[1] == (2, 1, 0, 0), "a failure, not skipped"


@pytest.mark.parametrize("name", ["json", "junit", "markdown"])
def test_standard_output_is_the_file_and_nothing_else(tmp_path, name):
    done = run("compare", two_builds(tmp_path / "run"), f"--{name}", "-")
    assert done.returncode == SAME and "compare: no case is slower by 5 %" in done.stderr.splitlines()
    if name == "json":
        assert json.loads(done.stdout)["verdict"] == "ok"
    else:
        assert done.stdout.startswith({"junit": "<?xml", "markdown": "### ✅"}[name])


def test_a_stream_gets_the_verdict_once(tmp_path):
    done = run("compare", two_builds(tmp_path / "run"), "--markdown", "/dev/stdout")
    assert done.returncode == SAME and done.stdout.count("###") == 1 and "not come to its end" not in done.stdout


def test_a_run_that_is_killed_leaves_no_success(tmp_path, monkeypatch):
    """As much of it as is written when nothing has been judged yet."""
    class Killed(BaseException):
        pass
    def killed(*_):
        content = json.loads((tmp_path / "x").read_text())
        assert (content["verdict"], content["headline"]) == ("error", "it has not come to its end")
        raise Killed
    monkeypatch.setattr(compare, "judge_kept", killed)
    with pytest.raises(Killed):
        compare.main([str(two_builds(tmp_path / "run")), "--json", str(tmp_path / "x")])
    assert json.loads((tmp_path / "x").read_text())["headline"] == "interrupted"


def test_an_error_leaves_no_earlier_verdict(tmp_path):
    """A CI that reads the file alone must not find the last run's."""
    paths = files(tmp_path)
    for path in paths.values():
        path.write_text("ok")
    done = run("compare", tmp_path / "nothing", *options_for(paths))
    assert done.returncode == WRONG and len(done.stderr.splitlines()) == 1
    content = json.loads(paths["json"].read_text())
    assert content["verdict"] == "error" and content["headline"] in done.stderr
    assert read_junit(paths["junit"].read_text())[0] == {"compare": ["Error"]}
    assert "❌" in paths["markdown"].read_text()


@pytest.mark.parametrize("options, says", [
    (["--json", "/nowhere/x"], "/nowhere/x: cannot be written: No such file or directory"),
    (["--json", "-", "--junit", "-"], "only one of them can be -"),
    (["--rounds", "9"], "--rounds is of two builds, and "),
    (["--output", "x"], "--output is of two builds, and "),
    (["--spec", "gate"], "--spec is of two builds, and "),
])
def test_what_has_no_effect_or_no_place_is_refused(tmp_path, options, says):
    done = run("compare", two_builds(tmp_path / "run"), *options)
    assert done.returncode == WRONG and says in done.stderr and len(done.stderr.splitlines()) == 1


def test_few_rounds_are_told_with_the_command_that_adds_more(tmp_path):
    folder = results(tmp_path / "run", {"4k": {"a": list(rounds(3)), "b": list(rounds(3, seed=2))}})
    info = json.loads((folder / "run.json").read_text()) | {"repeats": 3}
    (folder / "run.json").write_text(json.dumps(info))
    done = run("compare", folder)
    assert done.returncode == CANNOT_TELL
    assert f"pcache-sweep run --resume {folder} --rounds 9 adds them" in done.stdout


# ---- gate ----

@pytest.fixture
def gate_of(tmp_path, monkeypatch, capsys):
    """gate over made-up counts and ratios: (exit status, the JSON, what JUnit says, stdout)."""
    baseline = tmp_path / "gate.json"
    baseline.write_text(json.dumps({
        "schema": "pcache-gate/1", "threshold": 0.25, "rounds": 15, "compiler": "cc 1", "counts": {"write": ONE},
        "ratios": {"a CPU": {"w": {"median": 0.9, "low": 0.88, "high": 0.92, "n": 15}}}}))

    def run_gate(*options, instructions=1000.0, ratio=0.9, machine="a CPU", doubts=NO_DOUBTS):
        monkeypatch.setattr(gate.request_counts, "names", lambda _: ["write"])
        monkeypatch.setattr(gate.request_counts, "count", lambda *_: {**ONE, "instructions": instructions})
        monkeypatch.setattr(gate.request_counts, "compiler", lambda _: "cc 1")
        asked = []
        monkeypatch.setattr(gate, "measure_ratios", lambda _, rounds, *__: asked.append(rounds) or (
            {"w": Estimate(rounds, ratio, ratio * 0.99, ratio * 1.01)}, machine, doubts))
        paths = files(tmp_path)
        status = gate.main(["--baseline", str(baseline), "--build", str(BUILD), *options,
                            *map(str, options_for(paths))])
        return (status, json.loads(paths["json"].read_text()), read_junit(paths["junit"].read_text())[0],
                capsys.readouterr().out, asked)
    return run_gate


@pytest.mark.parametrize("more, status, strict_status, verdict, kinds", [
    ({}, 0, 0, "ok", {"write": [], "w": []}),
    ({"instructions": 1100.0}, 1, 1, "worse", {"write": ["Failure"], "w": []}),
    ({"ratio": 0.2}, 1, 1, "worse", {"write": [], "w": ["Failure"]}),
    ({"machine": "another"}, 0, 3, "ok in part", {"write": [], "w": ["Skipped"]}),
])
def test_gate_writes_what_it_says(gate_of, more, status, strict_status, verdict, kinds):
    found_status, content, junit, said, _ = gate_of(**more)
    assert (found_status, content["verdict"], junit) == (status, verdict, kinds)
    assert said.splitlines()[-1] == f"gate: {content['headline']}"
    assert {check["name"] for check in content["checks"]} == {"write", "w"}
    found_status, content, junit, *_ = gate_of("--strict", **more)
    assert found_status == content["exit_status"] == strict_status
    assert junit == {name: ["Failure"] if kind else [] for name, kind in kinds.items()}


def test_rounds_are_what_is_asked_for_and_else_the_baselines(gate_of):
    assert gate_of("--rounds", "21")[4] == [21]
    assert gate_of()[4] == [15]
    with pytest.raises(MeasureError, match="--rounds is of ratios, and has no effect with --counts"):
        gate_of("--rounds", "21", "--counts")


def test_a_machine_is_told_from_another_generation_of_the_same_name():
    """As virtual machines of two generations call themselves."""
    milan, turin = ({"model": "AMD EPYC", "family": family, "model_number": number, "stepping": "1"}
                    for family, number in (("25", "1"), ("26", "2")))
    assert machine_key(milan) == "AMD EPYC (family 25, model 1, stepping 1)" != machine_key(turin)
    assert machine_key({"model": "AMD EPYC"}) == "AMD EPYC", "a run that did not keep it"
