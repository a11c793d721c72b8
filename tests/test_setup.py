# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/setup, with a dpkg, an apt-get and a fio that answer and do nothing: what it asks for, and of whom."""

import os
import re
import subprocess

import pytest

from measure.libpcache import ROOT

SETUP = ROOT / "scripts/setup"


@pytest.fixture
def machine(tmp_path):
    """A PATH on which these programs are what is given; the rest is the machine's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "sed", "cat", "id", "mktemp", "rm", "mv", "mkdir", "flock", "sort", "tail", "git", "dirname",
                 "true", "sh", "env", "grep"):
        found = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
        (folder / tool).symlink_to(found)

    def run(*arguments, **tools):
        for name, text in tools.items():
            tool = folder / name.replace("_", "-")
            tool.write_text(f"#!/bin/sh\necho \"{tool.name} $*\" >>{tmp_path}/asked\n{text}\n")
            tool.chmod(0o755)
        env = {"PATH": str(folder), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"),
               "PCACHE_FIO_GIT": f"file://{tmp_path}/upstream"}
        done = subprocess.run([SETUP, *arguments], capture_output=True, text=True, check=False, timeout=60, env=env)
        asked = tmp_path / "asked"
        return done, asked.read_text().splitlines() if asked.exists() else []
    run.path = tmp_path
    return run


def arrays():
    """The packages of each group, and of Fedora."""
    text = SETUP.read_text()
    return {name: words.split() for name, words in re.findall(r"^(build|measure|test|dev|fedora)=\(([^)]*)\)", text,
                                                              re.MULTILINE)}


@pytest.mark.parametrize("group, has, has_not", [
    ("--build", ["fio", "libpmem2-dev"], ["chromium", "valgrind", "clang-tidy", "python3-scipy", "clang"]),
    ("--measure", ["fio", "python3-scipy"], ["chromium", "valgrind", "clang-tidy"]),
    ("--test", ["fio", "chromium", "valgrind", "clang"], ["clang-tidy", "clang-format"]),
    ("--dev", ["fio", "chromium", "clang-tidy", "clang-format"], []),
])
def test_a_group_installs_what_it_needs(machine, group, has, has_not):
    done, asked = machine(group, dpkg_query="exit 1", apt_get="case $1 in install) echo NOISE; exit 100;; esac")
    install, = [line for line in asked if line.startswith("apt-get install")]
    words = install.split()
    assert all(name in words for name in has) and not any(name in words for name in has_not)
    assert done.returncode == 1 and done.stdout.startswith("setup: installing build-essential")
    assert done.stderr == "NOISE\nsetup: apt-get could not install them\n", "and only since it failed"


def test_wrong_use(machine):
    done, asked = machine("--all")
    assert done.returncode == 2 and not asked
    assert done.stderr == "usage: scripts/setup [--build|--measure|--test|--dev]\n"


def test_without_apt_the_packages_are_named(machine):
    done, _ = machine()
    assert done.returncode == 1 and done.stderr == "setup: fio is not installed\n"
    assert " ".join(arrays()["fedora"]) in done.stdout


def test_the_readme_has_the_packages():
    text = " ".join((ROOT / "README.md").read_text().split())
    for group in ("build", "measure", "fedora"):
        assert " ".join(arrays()[group]) in text, group


@pytest.fixture
def upstream(machine):
    """A repository with a tag fio-0.1, whose configure makes the header."""
    folder = machine.path / "upstream"
    folder.mkdir()
    (folder / "configure").write_text("#!/bin/sh\n: >config-host.h\n")
    (folder / "configure").chmod(0o755)
    git = ["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "x"], ["tag", "fio-0.1"]):
        subprocess.run([*git, *command], check=True)
    return folder


def test_headers_come_from_upstream_without_apt(machine, upstream):
    version = subprocess.run(["/usr/bin/fio", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["git", "-C", upstream, "tag", version], check=True)
    done, _ = machine(fio=f"echo {version}")
    assert done.returncode == 0, done.stderr
    tree = machine.path / "cache/pcache" / version
    assert (tree / "config-host.h").exists() and (tree / ".pcache-stamp").read_text() == f"{version}\n"
    again, _ = machine(fio=f"echo {version}")
    assert again.returncode == 0 and "getting" not in again.stdout


def known_commits():
    """{package: commit}: packages that were not made of the tag of their version."""
    body = re.search(r"^upstream_of\(\) .*?^}", SETUP.read_text(), re.MULTILINE | re.DOTALL)[0]
    return dict(re.findall(r'^ *([^ *]+)\*\) echo "([0-9a-f]{40}) ', body, re.MULTILINE))


@pytest.mark.parametrize("package, commit", known_commits().items())
@pytest.mark.parametrize("has_commit", [True, False])
def test_headers_of_a_package_that_was_not_made_of_a_tag(machine, upstream, package, commit, has_commit):
    """Of the commit, where the repository has it; else of the tag, which CMake may refuse. A git that answers."""
    version = subprocess.run(["/usr/bin/fio", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["git", "-C", upstream, "tag", version], check=True)
    (machine.path / "bin/git").unlink()
    tools = {
        "dpkg_query": f"case $# in 4) echo {package};; *) for name; do printf 'installed:%s ' \"$name\"; done;; esac",
        "apt_get": "case $1 in indextargets) echo deb-src here there main;; *) exit 100;; esac",
        "fio": f"echo {version}",
        "git": f"case \"$*\" in *' {commit}') [ {int(has_commit)} = 1 ] || exit 128; "
               f"exec /usr/bin/git -C {version} fetch --quiet --depth 1 \"$PCACHE_FIO_GIT\" {version};; esac\n"
               "exec /usr/bin/git \"$@\"",
    }
    done, asked = machine("--build", **tools)
    assert done.returncode == 0, done.stderr
    assert f"apt has no source of fio {package}; trying upstream's {commit}\n" in done.stdout
    assert any(line.startswith("git ") and line.endswith(f" {commit}") for line in asked)
    stamp = machine.path / "cache/pcache" / version / ".pcache-stamp"
    assert stamp.read_text() == f"{commit if has_commit else version}\n"
    before = stamp.stat().st_ino
    again, _ = machine("--build", **tools)
    assert again.returncode == 0 and stamp.stat().st_ino == before, "what is there stays"
    assert has_commit != ("trying" in again.stdout)


def test_no_headers_anywhere(machine):
    done, _ = machine(fio="echo fio-0.1")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("setup: there is no source of the installed fio")
    assert not list((machine.path / "cache/pcache").glob("fio-*"))
