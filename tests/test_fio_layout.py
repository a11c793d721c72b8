# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine that was built with the headers of another fio is refused, in one line, and touches nothing.

The other fio's headers are those of the build, patched: a member more in a struct, as two fios of one version differ.
"""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

from fio import FIO, environment
from measure.libpcache import BUILD, ROOT
from support import file_state

SOURCES = {"fio": ("pcache_fio.c", "ending.c", "fio_layout.c", "job.c", "job_names.c", "message.c", "options.c",
                   "replay.c", "shared_cache.c"),
           "raw": ("pcache_raw.c", "fio_layout.c", "message.c")}
ANOTHER_FIO = "pcache: this engine was built for another fio"
# In place of fio_layout.c: finds nothing.
BLIND = """
#include "fio_layout.h"
bool fio_layout_fits(void) { return true; }
bool job_layout_fits(const struct thread_data* td, const struct ioengine_ops* engine) { return true; }
"""


def compile_command(source):
    """The words by which the build compiles a source of the engine, without its output."""
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        if entry["file"].endswith(f"/engine/{source}"):
            words = shlex.split(entry["command"])
            break
    else:
        pytest.fail(f"{BUILD}/compile_commands.json does not know {source}: configure with a preset", pytrace=False)
    at = words.index("-o")
    words = words[:at] + words[at + 2:]
    words.remove("-c")
    return [word for word in words if not word.endswith(source) and "ccache" not in word]


def fio_tree():
    words = compile_command("pcache_fio.c")
    return words[words.index("-isystem") + 1]


@pytest.fixture
def patched_tree(tmp_path):
    """The headers of the build with one line put before a line: patched_tree(header, before, line)."""
    tree = tmp_path / "fio-tree"
    shutil.copytree(fio_tree(), tree, ignore=lambda folder, names: [
        name for name in names if not os.path.isdir(os.path.join(folder, name)) and not name.endswith(".h")])

    def patch(header, before, line):
        text = (tree / header).read_text()
        assert text.count(before) >= 1, f"{header} of this fio has no {before!r}"
        (tree / header).write_text(text.replace(before, f"{line}\n{before}", 1))
        return tree
    patch.tree = tree
    return patch


@pytest.fixture
def build_engine(tmp_path):
    def build(kind, tree, blind=False):
        sources = [ROOT / "engine" / name for name in SOURCES[kind] if not (blind and name == "fio_layout.c")]
        if blind:
            (tmp_path / "blind.c").write_text(BLIND)
            sources.append(tmp_path / "blind.c")
        words = compile_command("pcache_fio.c")
        words[words.index("-isystem") + 1] = str(tree)
        library = tmp_path / f"libpcache_{kind}.so"
        subprocess.run([*words, "-w", "-shared", f"-I{ROOT}/engine", *map(str, sources), f"-L{BUILD}/lib", "-lpcache",
                        f"-Wl,-rpath,{BUILD}/lib,-z,nodelete,-z,lazy", "-o", str(library)], check=True)
        return library
    return build


def fio(pair, folder, *more, env=None):
    """A job that writes and verifies; so short that only one that hangs meets the limit."""
    return subprocess.run(
        [FIO, "--output-format=json", "--name=job", *more, f"--filename={pair.backing_path}",
         f"--cache_dev={pair.cache_path}", "--emulate_pmem=1", "--rw=write", "--bs=4k", "--size=1m"],
        capture_output=True, text=True, check=False, cwd=folder, env=environment(**(env or {})), timeout=120)


def ours(done):
    return [line for line in done.stderr.splitlines() if line.startswith("pcache: ")]


def assert_refused(done, line):
    """With one line that begins so; what fio says of it on its own comes with it."""
    assert done.returncode != 0, done.stdout + done.stderr
    assert len([said for said in ours(done) if said.startswith(line)]) == 1, done.stdout + done.stderr


@pytest.mark.parametrize("how", ["external", "preloaded"])
@pytest.mark.parametrize("kind", ["fio", "raw"])
def test_a_member_of_the_options_elsewhere(pair, tmp_path, patched_tree, build_engine, kind, how):
    tree = patched_tree("thread_options.h", "\tunsigned int use_thread;", "\tunsigned int patched;")
    engine = build_engine(kind, tree)
    before = [file_state(path) for path in (pair.cache_path, pair.backing_path)]
    if how == "external":
        done = fio(pair, tmp_path, f"--ioengine=external:{engine}")
    else:
        done = fio(pair, tmp_path, f"--ioengine={'pcache' if kind == 'fio' else 'pcache_raw'}",
                   env={"LD_PRELOAD": str(engine)})
    assert_refused(done, ANOTHER_FIO)
    assert re.search(r"fio-\S+ has the option thread at byte (\d+) .* at (\d+); .*scripts/setup", ours(done)[0])
    assert len(ours(done)) == 1
    assert before == [file_state(path) for path in (pair.cache_path, pair.backing_path)]


@pytest.mark.parametrize("kind", ["fio", "raw"])
def test_a_member_behind_the_options_elsewhere(pair, tmp_path, patched_tree, build_engine, kind):
    tree = patched_tree("fio.h", "\tstruct ioengine_ops *io_ops;", "\tvoid *patched;")
    engine = build_engine(kind, tree)
    before = [file_state(path) for path in (pair.cache_path, pair.backing_path)]
    assert_refused(fio(pair, tmp_path, f"--ioengine=external:{engine}"), ANOTHER_FIO)
    assert before == [file_state(path) for path in (pair.cache_path, pair.backing_path)]


@pytest.mark.parametrize("kind, line", [("fio", "pcache: job job: runs as a process"),
                                        ("raw", "pcache: job job: was not set up as a thread")])
def test_a_job_that_is_forked_ends_at_once(pair, tmp_path, patched_tree, build_engine, kind, line):
    """The engine sets another member than use_thread, and the check that would notice it is left out. All other
    members are where they were: what else the engine meets is this fio's."""
    header = patched_tree.tree / "thread_options.h"
    names = {"use_thread": "do_disk_util", "do_disk_util": "use_thread"}
    text = header.read_text()
    for name in names:
        assert f"\tunsigned int {name};" in text, f"this fio has no {name}"
    header.write_text(re.sub(r"\tunsigned int (use_thread|do_disk_util);",
                             lambda member: f"\tunsigned int {names[member[1]]};", text))
    engine = build_engine(kind, patched_tree.tree, blind=True)
    assert_refused(fio(pair, tmp_path, f"--ioengine=external:{engine}"), line)


def test_the_same_headers_do(pair, tmp_path, patched_tree, build_engine):
    """So what is refused above is refused for what is patched."""
    engine = build_engine("fio", patched_tree.tree)
    done = fio(pair, tmp_path, f"--ioengine=external:{engine}")
    assert done.returncode == 0 and ANOTHER_FIO not in done.stderr, done.stdout + done.stderr
    assert json.loads(done.stdout)["jobs"][0]["write"]["io_bytes"] == 1 << 20


def configure(tmp_path, tree):
    done = subprocess.run(
        ["cmake", "-S", ROOT, "-B", tmp_path / "build", "-G", "Ninja", f"-DPCACHE_FIO={FIO}",
         f"-DPCACHE_FIO_SOURCE={tree}",
         *(f"-DPCACHE_BUILD_{part}=OFF" for part in ("TOOLS", "NBDKIT", "BENCH", "TESTS"))],
        capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, " ".join((done.stdout + done.stderr).split())  # CMake breaks lines anywhere


def test_cmake_refuses_the_headers_of_another_fio(tmp_path, patched_tree):
    tree = patched_tree("thread_options.h", "\tunsigned int use_thread;", "\tunsigned int patched;")
    status, said = configure(tmp_path, tree)
    assert status != 0
    assert "are not those of the installed" in said and "has the option thread at byte" in said
    assert "-UPCACHE_FIO_SOURCE" in said


def test_cmake_warns_of_headers_that_are_not_the_packages(tmp_path, patched_tree):
    """They agree, and nothing says where they are from."""
    owner = subprocess.run(["dpkg-query", "-S", os.path.realpath(FIO)], capture_output=True, text=True, check=False)
    status, said = configure(tmp_path, patched_tree.tree)
    assert status == 0, said
    assert ("are not from the source of the installed package" in said) == owner.stdout.startswith("fio:")
