# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths that fio's job file may take for others: they arrive whole, or are refused before anything is written."""

import os

import pytest

from measure.libpcache import BUILD
from test_sweep import HEAD, run, write

# Of both engines, with all that names a file: the cache, the backing device, the status, the logs.
SPEC = HEAD.replace("1s", "400ms") + ("matrix: {engine: [pcache, uring], rw: randread, cache_size: 512m, "
                                      "working_set: 0.02, fill: empty}\n")
# What fio takes as it is.
WHOLE = ["two words", " in front", "a,b", "a:b", "a\\", "a\"b", "it's", "$HOME", "${HOME", "a%d", "a=b",
         "[job]", "*", "--name=x", "r\u00e9sum\u00e9", "~", "include x"]
# And what it does not: what it makes of it.
CUT = {"run #1": "cuts it at `#`", "run;1": "cuts it at `;`", "#": "cuts it at `#`", "a${HOME}b": "puts a variable",
       "$pagesize": "in place of `$pagesize`", "a$mb_memory": "in place of `$mb_memory`", "$ncpus": "`$ncpus`",
       "a\nb": "control character", "a\tb": "control character", "a\x01": "control character",
       "a\\:b": "takes `\\:` for `:`",
       "a\udcff": "not"}
HINT = "; give it by another path, such as a symbolic link\n"


def state(folder):
    """All that is there, and what the files hold; of large ones, in how many blocks."""
    def content(path):
        if not path.is_file():
            return None
        return path.read_bytes() if path.stat().st_size < 1 << 20 else path.stat().st_blocks
    return {os.fsencode(path): content(path) for path in sorted(folder.rglob("*"))}


def decoys(folder, name):
    """A file for each path that fio might take this one for, by cutting it."""
    for end in range(1, len(name)):
        if name[:end].strip() and name[:end] not in (".", ".."):
            (folder / name[:end]).write_text("precious")


@pytest.mark.parametrize("name", WHOLE)
def test_arrives_whole(tmp_path, shm, name):
    """As the folder of the results, of the cache and of the backing file at a time."""
    spec = write(tmp_path, SPEC)
    places = {}
    for option, parent in (("--output", tmp_path / "o"), ("--cache-dir", shm), ("--backing-dir", tmp_path / "b")):
        parent.mkdir(exist_ok=True)
        decoys(parent, name)
        places[option] = parent / name
    places["--cache-dir"].mkdir()
    places["--backing-dir"].mkdir()
    before = {parent: state(parent) for parent in (tmp_path / "b", shm)}, state(tmp_path / "o")
    done = run("run", spec, *(f"{option}={path}" for option, path in places.items()), "--quiet", cwd=tmp_path)
    assert done.stdout == f"{places['--output']}\n"
    assert {parent: state(parent) for parent in before[0]} == before[0], "what was made there is removed"
    after = state(tmp_path / "o")
    ours = os.fsencode(places["--output"])
    assert {path: content for path, content in after.items() if not path.startswith(ours)} == before[1]
    raw = [path.name for path in (places["--output"] / "raw").iterdir() if path.suffix != ".err"]
    both = [number + end for number in ("00000", "00001") for end in (".csv", ".fio", ".json")]
    assert sorted(name for name in raw if not name.endswith(".status")) == both and len(raw) == 7, raw


@pytest.mark.parametrize("name", CUT)
def test_where_it_does_not_matter_it_arrives_whole_too(tmp_path, name):
    """The folder of the results: fio stands in it."""
    decoys(tmp_path, name)
    before = state(tmp_path)
    spec = write(tmp_path, SPEC, "spec.yaml")
    (tmp_path / "b").mkdir()
    run("run", spec, "--output", tmp_path / name, "--backing-dir", tmp_path / "b", "--quiet", errors="replace")
    ours = os.fsencode(tmp_path / name)
    after = {path: content for path, content in state(tmp_path).items() if not path.startswith(ours)}
    del after[os.fsencode(spec)], after[os.fsencode(tmp_path / "b")]
    assert after == before


@pytest.mark.parametrize("option", ["--backing-dir", "--cache-dir", "--backing", "--cache-dev", "--build"])
@pytest.mark.parametrize("name", CUT)
def test_is_refused_before_anything_is_written(tmp_path, name, option):
    decoys(tmp_path, name)
    spec = write(tmp_path, SPEC, "spec.yaml")
    path = tmp_path / name
    if option == "--build":
        path.mkdir()
        (path / "lib").symlink_to(BUILD / "lib")
    elif option.endswith("dir"):
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 512 << 20)
    before = state(tmp_path)
    done = run("run", spec, f"{option}={path}", "--overwrite", "--output", tmp_path / "out", ok=2, errors="replace")
    assert CUT[name] in done.stderr and done.stderr.endswith(HINT) and len(done.stderr.splitlines()) == 1
    assert option.replace("--build", "build") in done.stderr
    assert state(tmp_path) == before


def test_a_blank_at_the_end_of_a_device(tmp_path):
    """In a folder it stays: the path goes on behind it."""
    spec, path = write(tmp_path, SPEC), tmp_path / "disk "
    path.touch()
    os.truncate(path, 512 << 20)
    (tmp_path / "disk").write_text("precious")
    done = run("run", spec, f"--backing={path}", "--overwrite", "--output", tmp_path / "out", ok=2)
    assert "drops the blanks around it" in done.stderr
    (tmp_path / "folder ").mkdir()
    run("run", spec, f"--backing-dir={tmp_path}/folder ", "--output", tmp_path / "out", "--quiet")
    assert (tmp_path / "disk").read_text() == "precious"


def test_a_device_of_the_file_is_looked_at_too(tmp_path):
    """With a line in it, it would be a job of its own."""
    for text, says in (("/dev/x #1", "cuts it at `#`"), ("/dev/x\\nfilename=/dev/y", "control character")):
        spec = write(tmp_path, HEAD + f'matrix: {{engine: "path:{text}"}}\n')
        done = run("run", spec, "--overwrite", "--output", tmp_path / "out", ok=2)
        assert done.stderr.startswith(f"pcache-sweep: {spec}:4: engine: ") and says in done.stderr
        assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_link_is_the_way_out(tmp_path):
    (tmp_path / "run #1").mkdir()
    (tmp_path / "run").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "run #1")
    run("run", write(tmp_path, SPEC), "--backing-dir", tmp_path / "link", "--output", tmp_path / "out", "--quiet")
    assert (tmp_path / "run").read_text() == "precious"
