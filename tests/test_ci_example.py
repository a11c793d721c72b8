# SPDX-License-Identifier: GPL-2.0-or-later
"""The example of bench/CI.md: what can be said of it without building twice. All of it is run by hand, in a clone."""

import re
import subprocess

import pytest
import yaml

from measure.libpcache import ROOT

WORKFLOW = ROOT / "bench" / "ci" / "github.yml"


def steps():
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    return job["steps"]


def test_the_workflow_runs_what_is_there():
    ran = "\n".join(step["run"] for step in steps() if "run" in step)
    for script in re.findall(r"\bscripts/\w+", ran):
        assert (ROOT / script).is_file(), script
    assert "scripts/setup" in ran and "scripts/judge out" in ran


def test_the_workflows_shell_is_shell():
    for step in steps():
        done = subprocess.run(["bash", "-n", "-c", step.get("run", "")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_options_it_gives_are_those_of_compare():
    options = next(step["env"]["PCACHE_CI_COMPARE"] for step in steps() if "env" in step).split()
    text = (ROOT / "bench" / "measure" / "compare.py").read_text()
    assert options and all(f'add_argument("{option}"' in text for option in options if option.startswith("--"))


@pytest.mark.parametrize("arguments, says", [
    ([], "usage: scripts/judge OUT [BASE]"), (["a", "b", "c"], "usage: scripts/judge OUT [BASE]"),
    (["OUT", "no-such-commit"], "judge: no-such-commit: is no commit here"),
])
def test_wrong_use_is_one_line(tmp_path, arguments, says):
    done = subprocess.run([ROOT / "scripts" / "judge", *(tmp_path if one == "OUT" else one for one in arguments)],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stderr.startswith(says) and len(done.stderr.splitlines()) == 1
