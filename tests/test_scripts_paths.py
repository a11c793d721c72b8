# SPDX-License-Identifier: GPL-2.0-or-later
"""The scripts in a folder with a strange name: they work, or refuse it in one line before anything is built."""

import os
import re
import shutil
import subprocess

import pytest

from measure.libpcache import BUILD, ROOT

BUILDING = {"demo": [], "test": ["--quick"], "fuzz": [], "long": [], "sweep": ["smoke"], "prove": [],
            "check": ["core/base/mutants.cc"], "judge": ["out"], "package": []}


@pytest.fixture
def tree(disk):
    """Makes one in a folder of this name: the scripts, what they look at first, and the build as it is."""
    def make(name):
        folder = disk / name / "pcache"
        for path in ("scripts", "engine/examples"):
            shutil.copytree(ROOT / path, folder / path, symlinks=True)
        (folder / "core/base").mkdir(parents=True)
        shutil.copy(ROOT / "core/base/mutants.cc", folder / "core/base")
        return folder
    return make


def run(script, *arguments, **kwargs):
    return subprocess.run([script, *arguments], capture_output=True, text=True, errors="surrogateescape", check=False,
                          **kwargs)


@pytest.mark.parametrize("name", ["a;b", "#", 'a "b', "a$b", "a\\b", "a\nb", "a,b",
                                  "*", "a?", "[b", "b]", "<", ">", "a|b"])
def test_refused(tree, name):
    """What CMake, ld or fio takes for something else; by a link of another name it may be built."""
    folder = tree(name)
    before = sorted(folder.rglob("*"))
    for script, arguments in BUILDING.items():
        done = run(folder / "scripts" / script, *arguments)
        assert done.returncode == 1 and done.stdout == "", f"{script}: {done}"
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(f"{script}: {folder.parent.parent}"), done
        assert "cannot be built in a folder with one of" in done.stderr
        assert sorted(folder.rglob("*")) == before, "nothing is made there"
    os.symlink(folder, folder.parent.parent / "link")
    assert run(folder.parent.parent / "link/scripts/buildable").returncode == 0
    by_link = run(folder.parent.parent / "link/scripts/prove", timeout=60)  # in Python, not in the shell
    assert "cannot be built in" not in by_link.stderr, by_link


def test_each_script_that_builds_asks():
    builds = {path.name for path in (ROOT / "scripts").iterdir()
              if re.search(r"^[^#\n]*cmake\W+(preset|S \. )", path.read_text(), re.MULTILINE)}
    assert builds - {"other-debian"} == BUILDING.keys()  # which builds at a path of its own


def test_demo(tree, disk):
    """Of a build that is there, over less than it writes else. fio would cut such a path, or not find the engine."""
    folder = tree("two words a:b & 'c' 100%(x)")
    (folder / "build").mkdir()
    for made in ("bin", "lib"):
        (folder / "build" / made).symlink_to(BUILD / made)
    (disk / "bin").mkdir()
    for tool in (folder / "scripts/setup", disk / "bin/cmake"):  # all is installed, and built
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    for file, old, new in (("engine/examples/demo.inc", "size=640m", "size=16m"),
                           ("scripts/demo", "written <= 2**30", "written <= 2**24")):
        text = (folder / file).read_text()
        assert text.count(old) == 1
        (folder / file).write_text(text.replace(old, new))
    done = run(folder / "scripts/demo", env=os.environ | {"PATH": f"{disk}/bin:{os.environ['PATH']}"})
    assert done.returncode == 0 and done.stdout.endswith("\ndemo: OK\n"), done.stdout + done.stderr
    assert done.stdout.count("demo: verified 32 MiB of 32 MiB, errors: []") in (2, 4)  # 4: over a loop device, too
    logs = {path.name for path in (folder / "build/demo").iterdir()}
    assert "file-write-verify.log" in logs and "disk.img" not in logs
