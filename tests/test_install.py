# SPDX-License-Identifier: GPL-2.0-or-later
"""What is installed: found by pkg-config and CMake, complete, movable, described; and the .deb of it."""

import os
import re
import shutil
import subprocess

import pytest

from fio import FIO
from measure.libpcache import BUILD, ROOT

PROGRAM = """
#include <pcache.h>
#include <stdio.h>
int main(void) { return puts(pcache_version()) < 0; }
"""
PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C)
find_package(pcache {version} REQUIRED)
add_executable(program program.c)
target_link_libraries(program PRIVATE pcache::pcache)
"""
VERSION = re.search(r"^project\(pcache VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)[1]
PROGRAMS = ("pcachectl", "pcached", "pcache-ublk", "pcache-sweep", "pcache-microbench")


def good(*command, **more):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Installed in one place and moved to another: nothing that was installed knows the first."""
    first = tmp_path_factory.mktemp("first") / "prefix"
    good("cmake", "--install", BUILD, "--prefix", first)
    return shutil.move(first, tmp_path_factory.mktemp("moved") / "prefix")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The .deb, unpacked: (its control file, the folder)."""
    folder = tmp_path_factory.mktemp("package")
    good("cpack", "--config", BUILD / "CPackConfig.cmake", "-B", folder)
    deb, = folder.glob("*.deb")
    good("dpkg-deb", "--raw-extract", deb, folder / "root")
    return (folder / "root/DEBIAN/control").read_text(), folder / "root"


def test_the_library_is_found_by_pkg_config(prefix, tmp_path):
    env = os.environ | {"PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig"), "LD_LIBRARY_PATH": str(prefix / "lib")}
    assert good("pkg-config", "--modversion", "pcache", env=env).strip() == VERSION
    words = good("pkg-config", "--cflags", "--libs", "pcache", env=env).split()
    (tmp_path / "program.c").write_text(PROGRAM)
    good("cc", "-Wall", "-Werror", "-o", tmp_path / "program", tmp_path / "program.c", *words)
    assert good(tmp_path / "program", env=env).strip() == VERSION
    engine = good("pkg-config", "--variable=fio_engine", "pcache", env=env).strip()
    assert os.path.samefile(engine, prefix / "lib/libpcache_fio.so")
    assert "cache_dev" in good(FIO, f"--enghelp={engine}")


@pytest.mark.parametrize("asked, found", [(VERSION, True), ("99.0", False)])
def test_the_library_is_found_by_cmake(prefix, tmp_path, asked, found):
    (tmp_path / "program.c").write_text(PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(PROJECT.format(version=asked))
    configure = ["cmake", "-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}"]
    if not found:
        done = subprocess.run(configure, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and VERSION in done.stderr
        return
    good(*configure)
    good("cmake", "--build", tmp_path / "build")
    assert good(tmp_path / "build/program").strip() == VERSION


def test_names_and_versions_agree(prefix):
    library = (prefix / "lib/libpcache.so").resolve()
    soname = re.search(r"SONAME.*\[(.*)\]", good("readelf", "-d", library))[1]
    assert library.name == f"{soname}.{VERSION}"
    assert os.path.samefile(prefix / "lib" / soname, library)
    for program in PROGRAMS:
        assert re.match(rf"{program} {re.escape(VERSION)}\b", good(prefix / "bin" / program, "--version"))
    for program in PROGRAMS[3:]:  # what measures
        assert re.search(r" \(([0-9a-f]{12}(-dirty)?|unknown)\)$", good(prefix / "bin" / program, "--version").strip())


def files_of(prefix):
    return [path for path in prefix.rglob("*") if path.is_file() and not path.is_symlink()]


def test_nothing_installed_names_a_folder_of_the_build(prefix):
    """Neither a program, nor what others build with."""
    folders = {os.fsencode(str(path)) for path in (ROOT, BUILD, ROOT.resolve(), BUILD.resolve())}
    named = [path for path in files_of(prefix) if any(folder in path.read_bytes() for folder in folders)]
    assert not named
    assert len(files_of(prefix)) > 100


def test_what_belongs_to_it_is_there(prefix):
    doc = prefix / "share/doc/pcache"
    for name in ("LICENSE", "README.md", "CHANGELOG.md"):
        assert (doc / name).read_bytes() == (ROOT / name).read_bytes()
    examples = {path.name for path in (ROOT / "engine/examples").iterdir()}
    assert {path.name for path in (doc / "examples").iterdir()} == examples
    assert len(list((prefix / "share/man").rglob("*.[17]"))) == 6


def options_of(program, *command):
    text = good(program, *command, "--help")
    return set(re.findall(r"^ +(?:-\w, ?)?(--[a-z][\w-]*)", text, re.MULTILINE)) - {"--help"}


def manual(prefix, name):
    section = name[-1]
    return (prefix / f"share/man/man{section}/{name}").read_text().replace("\\-", "-")


def test_manual_pages_know_all_options(prefix):
    page = manual(prefix, "pcache-sweep.1")
    for command in ("run", "report", "table", "compare", "gate", "history", "export"):
        assert f"pcache-sweep {command}" in page or f".B {command}" in page
        missing = [option for option in options_of(prefix / "bin/pcache-sweep", command)
                   if option not in page and not option.startswith("--benchmark")]
        assert not missing, f"{command}: {missing}"
    page = manual(prefix, "pcache-microbench.1")
    missing = [option for option in options_of(prefix / "bin/pcache-microbench")
               if option not in page and not option.startswith("--benchmark")]
    assert not missing


def test_the_manual_of_the_engine_is_its_readme(prefix):
    page = manual(prefix, "pcache_fio.7")
    assert "\n.TH PCACHE_FIO 7 " in page
    for line in good(FIO, f"--enghelp={prefix}/lib/libpcache_fio.so").splitlines():
        if match := re.match(r"(\w+) +:", line):
            assert match[1] in page, match[1]


@pytest.mark.parametrize("page", ["pcachectl.1", "pcached.1", "pcache-ublk.1", "pcache-sweep.1", "pcache-microbench.1",
                                  "pcache_fio.7"])
def test_manual_pages_are_well_formed(prefix, page):
    """groff's reader of manual pages warns of nothing but lines that cannot be filled."""
    if not shutil.which("groff"):
        pytest.skip("groff is not installed: apt-get install groff-base")
    file = prefix / f"share/man/man{page[-1]}/{page}"
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-Wbreak", "-t", "-z", file], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def completed(prefix, *words):
    """What bash would offer for the last word."""
    program = words[0]
    script = (f"source {prefix}/share/bash-completion/completions/{program}\n"
              f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}\n"
              f"_pcache {program}; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    path = f"{prefix}/bin:{os.environ['PATH']}"
    return good("bash", "-c", script, env=os.environ | {"PATH": path}).split()


def test_completion(prefix):
    assert completed(prefix, "pcachectl", "che") == ["check"]
    assert "writeback" in completed(prefix, "pcachectl", "") and "Exit" not in completed(prefix, "pcachectl", "")
    assert completed(prefix, "pcachectl", "dump", "--ra") == ["--range"]
    assert completed(prefix, "pcache-sweep", "co") == ["compare"]
    assert completed(prefix, "pcache-sweep", "compare", "--th") == ["--threshold"]
    assert completed(prefix, "pcache-sweep", "run", "smo") == ["smoke"]
    assert completed(prefix, "pcache-ublk", "--recovera") == ["--recoverable"]
    assert completed(prefix, "pcache-microbench", "--list_c") == ["--list_counts"]
    assert completed(prefix, "pcachectl", "check", "/no") == [], "the shell's own, files"


def test_presets_are_listed_with_their_titles(prefix):
    lines = good(prefix / "bin/pcache-sweep", "presets").splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    assert all(len(line.split(None, 1)) == 2 for line in lines)


def test_the_package_asks_for_what_it_needs(package):
    control, _ = package
    fields = dict(re.findall(r"^(\w[\w-]*): (.*)$", control, re.MULTILINE))
    assert fields["Package"] == "pcache" and fields["Version"] == VERSION
    release = re.match(r"fio-(\d+\.\d+)", good(FIO, "--version"))[1]
    assert f"fio (>= {release})" in fields["Depends"]
    for library in ("libc6", "libpmem2", "liburing2", "libisal2", "libblkid1"):
        assert re.search(rf"\b{library}\b", fields["Depends"]), fields["Depends"]
    assert "python3-scipy" in fields["Recommends"]


def names_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_what_is_run_leaves_nothing_beside_it(prefix):
    """A package is removed with its folders, if no program has put a file there."""
    before = names_below(prefix)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for command in ("report", "compare", "gate", "history"):
        good(prefix / "bin/pcache-sweep", command, "--help", env=env | {"LD_LIBRARY_PATH": str(prefix / "lib")})
    assert names_below(prefix) == before


def test_the_package_has_all_that_is_installed(package, prefix):
    _, root = package
    assert names_below(root / "usr") == names_below(prefix)
    assert "ldconfig" in (root / "DEBIAN/triggers").read_text()
    assert "libpcache 2" in (root / "DEBIAN/shlibs").read_text()


def test_the_package_runs_from_another_folder(package, pair, tmp_path):
    """Unpacked, not installed: scripts/try-package does that, in a root of its own."""
    _, root = package
    engine = root / "usr/lib/libpcache_fio.so"
    good(FIO, f"--ioengine=external:{engine}", f"--cache_dev={pair.cache_path}", "--emulate_pmem=1",
         f"--filename={pair.backing_path}", "--name=job", "--rw=randwrite", "--bs=4k", "--size=1m", "--verify=crc32c",
         cwd=tmp_path)
    good(root / "usr/bin/pcachectl", "check", pair.cache_path, "--backing", pair.backing_path, cwd=tmp_path)
