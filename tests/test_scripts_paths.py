# SPDX-License-Identifier: GPL-2.0-or-later
"""The scripts in a folder with a strange name: they work, or refuse it in one line before anything is built."""

import glob
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from measure.libpcache import BUILD, ROOT

BUILDING = {"demo": [], "test": ["--quick"], "fuzz": [], "long": [], "sweep": ["smoke"], "prove": [],
            "check": ["core/base/mutants.cc"], "judge": ["out"], "package": [], "mount-demo": [],
            "two-sides-demo": [], "ublk-vm": [], "dax-vm": [],
            "other-fio": ["3.42"]}


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
    builds -= {"other-debian"}  # which builds at a path of its own
    common = {"vm-common"}  # which those that read it in have asked for
    read_in = {path.name for path in (ROOT / "scripts").iterdir() if "\n. scripts/vm-common\n" in path.read_text()}
    assert builds - common | read_in == BUILDING.keys() and common < builds and len(read_in) == 2


@pytest.fixture
def built(tree, disk):
    """Such a folder, of a name that fio would cut or that a shell would take apart, with a build that is there; and an
    environment in which all is installed and built."""
    folder = tree("two words a:b & 'c' 100%(x)")
    (folder / "build").mkdir()
    for made in ("bin", "lib"):
        (folder / "build" / made).symlink_to(BUILD / made)
    (disk / "bin").mkdir()
    for tool in (folder / "scripts/setup", disk / "bin/cmake"):
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    return folder, os.environ | {"PATH": f"{disk}/bin:{os.environ['PATH']}"}


def test_demo(built):
    """Over less than it writes else."""
    folder, env = built
    for file, old, new in (("engine/examples/demo.inc", "size=640m", "size=16m"),
                           ("scripts/demo", "written <= 2**30", "written <= 2**24")):
        text = (folder / file).read_text()
        assert text.count(old) == 1
        (folder / file).write_text(text.replace(old, new))
    done = run(folder / "scripts/demo", env=env)
    assert done.returncode == 0 and done.stdout.endswith("\ndemo: OK\n"), done.stdout + done.stderr
    assert done.stdout.count("demo: verified 32 MiB of 32 MiB, errors: []") in (2, 4)  # 4: over a loop device, too
    logs = {path.name for path in (folder / "build/demo").iterdir()}
    assert "file-write-verify.log" in logs and "disk.img" not in logs


def can_mount():
    """None, or why not."""
    capabilities = re.search(r"^CapEff:\s*(\w+)$", pathlib.Path("/proc/self/status").read_text(), re.MULTILINE)[1]
    if os.geteuid() != 0 or not int(capabilities, 16) >> 21 & 1:
        return "mounting takes root, with CAP_SYS_ADMIN"
    missing = [path for path in ("/dev/fuse", "/dev/loop-control") if not os.path.exists(path)]
    return f"this kernel or container has no {' and no '.join(missing)}" if missing else None


def left_of_mount_demo():
    """What it makes outside of the tree, and does not leave."""
    mounts = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    files = [path for folder in ("/var/tmp", "/dev/shm") for path in glob.glob(f"{folder}/pcache-mount-demo.*")]
    pids = subprocess.run(["pgrep", "-f", "pcache-mount-demo"], capture_output=True, text=True, check=False).stdout
    return {*[line for line in mounts if "pcache-mount-demo" in line], *files, *pids.split()}


@pytest.mark.skipif(can_mount() is not None, reason=str(can_mount()))
def test_mount_demo(built):
    """An ext4 on a cache is there again after SIGKILL of the server."""
    folder, env = built
    before = left_of_mount_demo()
    done = run(folder / "scripts/mount-demo", env=env, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("\nmount-demo: OK\n"), done.stdout + done.stderr
    assert re.search(r"^mount-demo: [1-9]\d+ files are as they were$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^sound, .* dirty$", done.stdout, re.MULTILINE), "pcachectl check"
    assert left_of_mount_demo() == before


def heeds_interrupts():
    """Before exec(): bash does not trap a signal that was ignored when it began, as in a job of a script."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(can_mount() is not None, reason=str(can_mount()))
@pytest.mark.parametrize("during", ["on a cache of", "kill -9", "mounting again"])
def test_mount_demo_interrupted(built, during):
    folder, env = built
    before = left_of_mount_demo()
    with subprocess.Popen([folder / "scripts/mount-demo"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, start_new_session=True, preexec_fn=heeds_interrupts) as demo:
        for line in demo.stdout:
            if during in line:
                break
        os.killpg(demo.pid, signal.SIGINT)
        said = demo.communicate(timeout=120)[1]
    assert demo.returncode == 130 and "mount-demo: FAILED (exit status 130) in: " in said, said
    assert left_of_mount_demo() == before
