# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep says which sources a build is of by what the build itself says, and not by what its source tree is."""

import json
import re
import shutil
import subprocess

import pytest

from measure.libpcache import BUILD, ROOT
from test_gate_baseline import baseline, judged  # noqa: F401  pylint: disable=unused-import
from test_sweep import HEAD, run, write

DISK = HEAD.replace("1s", "300ms") + "matrix: {engine: uring, cache_size: 512m, working_set: 0.02, bs: 4k}\n"
STAMP = re.compile(rb"pcache build: commit=[0-9a-z]+ dirty=[01] ")
LIBRARIES = ("libpcache.so", "libpcache_fio.so", "libpcache_raw.so")
ONES = "1" * 40


def restamp(path, commit, dirty=0):
    """`commit` may be shorter than the one that is there."""
    content = path.read_bytes()
    (old,) = STAMP.findall(content)
    new = f"pcache build: commit={commit} dirty={dirty}".encode().ljust(len(old))
    assert len(new) == len(old)
    path.write_bytes(content.replace(old, new))


@pytest.fixture
def build(tmp_path):
    """A copy of the libraries that says it is of 111..."""
    shutil.copytree(BUILD / "lib", tmp_path / "build" / "lib", symlinks=True)
    for library in LIBRARIES:
        restamp(tmp_path / "build" / "lib" / library, ONES)
    return tmp_path / "build"


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments],
                          capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(folder):
    folder.mkdir()
    git(folder, "init", "--quiet")
    write(folder, "1", "file")
    git(folder, "add", "file")
    git(folder, "commit", "--quiet", "--message=one")
    return git(folder, "rev-parse", "HEAD")


def measured(tmp_path, *builds, said=0):
    """What run.json says of the builds."""
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    done = run("run", write(tmp_path, DISK), *(f"--build={b}" for b in builds), "--output", tmp_path / "run",
               "--backing-dir", tmp_path, "--quiet")
    # A machine that others use may be loaded, and is said to be.
    assert len([line for line in done.stderr.splitlines() if "load above" not in line]) == said, done.stderr
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["schema"] == "pcache-sweep-run/2" and "source" not in info
    return info["builds"], done.stderr


def test_what_the_libraries_say_is_kept(tmp_path, build):
    (kept,), _ = measured(tmp_path, build)
    assert kept["commit"] == ONES and kept["dirty"] is False and kept["build_type"] == "Release"
    assert "source_tree" not in kept, "there is none"
    restamp(build / "lib" / "libpcache.so", "2" * 40, 1)
    restamp(build / "lib" / "libpcache_fio.so", "2" * 40, 1)
    restamp(build / "lib" / "libpcache_raw.so", "2" * 40, 1)
    (kept,), _ = measured(tmp_path, build)
    assert kept["commit"] == "2" * 40 and kept["dirty"] is True
    run("report", tmp_path / "run")
    assert f"measured is {'2' * 12}-dirty<" in (tmp_path / "run" / "report" / "report.html").read_text()
    harness = json.loads((tmp_path / "run" / "run.json").read_text())["harness"]
    assert re.fullmatch("[0-9a-f]{40}|unknown", harness["commit"]) and harness["version"] == kept["version"]


def test_a_source_tree_at_something_else_is_said_in_one_line(tmp_path, build):
    source = tmp_path / "source's"
    head = repository(source)
    write(build, f"CMAKE_HOME_DIRECTORY:INTERNAL={source}\n", "CMakeCache.txt")
    (kept,), said = measured(tmp_path, build, said=1)
    assert kept["commit"] == ONES and kept["source_tree"] == head[:12]
    assert f"{build}: measured is {ONES[:12]}, of which it was built; its source tree is {head[:12]}\n" in said
    for library in LIBRARIES:
        restamp(build / "lib" / library, head)
    assert "source_tree" not in measured(tmp_path, build)[0][0]
    write(source, "2", "file")
    assert measured(tmp_path, build, said=1)[0][0]["source_tree"] == head[:12] + "-dirty"


def test_a_build_that_is_half_built_is_refused(tmp_path, build):
    restamp(build / "lib" / "libpcache_raw.so", "3" * 40)
    done = run("run", write(tmp_path, DISK), "--build", build, "--output", tmp_path / "run", ok=2)
    assert f"{build}: libpcache.so is of {'1' * 12}, libpcache_raw.so of {'3' * 12}; build it whole" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_a_build_without_stamps_can_be_measured(tmp_path, build):
    """Of before there were any."""
    for library in LIBRARIES:
        path = build / "lib" / library
        path.write_bytes(path.read_bytes().replace(b"pcache build: ", b"pcache built: "))
    (kept,), _ = measured(tmp_path, build)
    assert kept.keys() == {"label", "dir", "hash"}
    run("report", tmp_path / "run")
    assert "measured is unknown<" in (tmp_path / "run" / "report" / "report.html").read_text()


def test_the_gate_keeps_what_the_build_says(tmp_path, baseline, judged, build):  # noqa: F811
    (build / "bin").mkdir()
    shutil.copy(BUILD / "bin" / "pcache-microbench", build / "bin")
    restamp(build / "bin" / "pcache-microbench", ONES, 1)
    for library in LIBRARIES:
        restamp(build / "lib" / library, ONES, 1)
    status, said = judged("--counts", "--accept", "why", "--build", str(build))
    assert status == 0 and f"gate: {build} is of {ONES[:12]}-dirty\n" in said
    assert json.loads(baseline.read_text())["commit"] == ONES[:12] + "-dirty"
    restamp(build / "lib" / "libpcache.so", ONES)
    with pytest.raises(Exception, match="build it whole"):
        judged("--counts", "--build", str(build))


# ---- The stamp itself ----

def stamp(source, out):
    subprocess.run(["cmake", "-D", f"SOURCE={source}", "-D", f"OUT={out}", "-D", "VERSION=1", "-D", "BUILD_TYPE=x",
                    "-P", ROOT / "core" / "stamp" / "stamp.cmake"], check=True)
    return re.search(r"commit=(\w+) dirty=(.)", out.read_text()).groups()


def test_the_stamp_follows_the_sources_and_stays_while_they_do(tmp_path):
    source, out = tmp_path / "source", tmp_path / "stamp.c"
    head = repository(source)
    assert stamp(source, out) == (head, "0")
    made = out.stat().st_mtime_ns
    assert stamp(source, out) == (head, "0") and out.stat().st_mtime_ns == made, "nothing is built anew"
    write(source, "2", "file")
    assert stamp(source, out) == (head, "1")
    git(source, "commit", "--quiet", "--all", "--message=two")
    assert stamp(source, out) == (git(source, "rev-parse", "HEAD"), "0") != (head, "0")


def test_an_archive_inside_another_repository_is_of_no_commit(tmp_path):
    repository(tmp_path / "around")
    (tmp_path / "around" / "unpacked").mkdir()
    assert stamp(tmp_path / "around" / "unpacked", tmp_path / "stamp.c") == ("unknown", "0")
