# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep run NAME: presets are found by where the program lies, in the source tree and installed."""

import json
import shutil
import subprocess

import pytest

from measure.libpcache import BUILD, ROOT
from test_sweep import HEAD, run, write

PRESETS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Where this build is installed."""
    folder = tmp_path_factory.mktemp("prefix")
    subprocess.run(["cmake", "--install", BUILD, "--prefix", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def run_installed(prefix, *arguments, **more):
    return subprocess.run([prefix / "bin" / "pcache-sweep", *map(str, arguments)], capture_output=True, text=True,
                          timeout=400, check=False, **more)


def test_a_preset_is_named_from_anywhere(tmp_path):
    for preset in PRESETS:
        plan = run("run", preset, "--plan", cwd=tmp_path).stdout
        assert plan == run("run", ROOT / "configs" / f"{preset}.yaml", "--plan", cwd=tmp_path).stdout


def test_an_unknown_preset_is_told_which_there_are(tmp_path):
    done = run("run", "smok", "--plan", ok=2, cwd=tmp_path)
    assert done.stderr == (f"pcache-sweep: smok: is neither a file nor a preset; presets ({ROOT}/configs): "
                           f"{', '.join(PRESETS)}\n")
    assert "cannot read ./smoke:" in run("run", "./smoke", ok=2, cwd=tmp_path).stderr
    assert "cannot read smoke.yaml:" in run("run", "smoke.yaml", ok=2, cwd=tmp_path).stderr


def test_a_file_of_that_name_comes_first(tmp_path):
    write(tmp_path, HEAD + "matrix: {bs: 4k}\n", "smoke")
    assert "1 cases, 1 measurements" in run("run", "smoke", "--plan", cwd=tmp_path).stdout
    (tmp_path / "gate").mkdir()
    assert "cases" in run("run", "gate", "--plan", cwd=tmp_path).stdout, "a folder is none"


def test_installed_it_measures_a_preset(prefix, tmp_path):
    done = run_installed(prefix, "run", "smoke", "--repeats", 1, "--runtime", 0.3, "--output", tmp_path / "run",
                         "--backing-dir", tmp_path, "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["builds"][0]["dir"] == str(prefix) and info["builds"][0]["commit"]
    assert info["spec"] == (ROOT / "configs" / "smoke.yaml").read_text()
    done = run_installed(prefix, "report", tmp_path / "run")
    assert done.returncode == 0, done.stderr


def test_installed_it_knows_its_own_presets(prefix, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(prefix, moved, symlinks=True)
    configs = moved / "share" / "pcache" / "configs"
    for path in configs.glob("*.yaml"):
        path.unlink()
    write(configs, HEAD + "matrix: {bs: 4k}\n", "mine.yaml")
    assert "1 cases" in run_installed(moved, "run", "mine", "--plan").stdout
    done = run_installed(moved, "run", "smoke", "--plan")
    assert done.returncode == 2
    assert done.stderr == f"pcache-sweep: smoke: is neither a file nor a preset; presets ({configs}): mine\n"
    # What compare measures is a preset, too.
    done = run_installed(moved, "compare", moved, moved)
    assert done.returncode == 2 and done.stderr.startswith("pcache-sweep: gate: is neither a file nor a preset; ")
