# SPDX-License-Identifier: GPL-2.0-or-later
"""The library alone builds, is installed and used where there is nothing but what it needs itself."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from measure.libpcache import ROOT

PARTS = ("TOOLS", "ENGINE", "NBDKIT", "UBLK", "BENCH", "TESTS")
# What it needs of pkg-config.
NEEDED = ("libpmem2", "liburing", "libisal", "libnbd")
HIDDEN = ("GTest", "CLI11", "benchmark", "yaml-cpp")
PROGRAM = """
#include <pcache.h>
#include <stdio.h>
int main(void) { return puts(pcache_version()) < 0; }
"""


@pytest.fixture
def bare(tmp_path):
    """Configures where nothing else is found, nor fio's sources; what came of it."""
    (tmp_path / "pc").mkdir()
    for name in NEEDED:
        found = subprocess.run(["pkg-config", "--variable=pcfiledir", name], capture_output=True, text=True,
                               check=False)
        if found.returncode == 0:
            file = f"{name}.pc"
            (tmp_path / "pc" / file).symlink_to(pathlib.Path(found.stdout.strip()) / file)
    env = {**os.environ, "PKG_CONFIG_LIBDIR": str(tmp_path / "pc"), "CCACHE_DIR": ccache_folder(),
           "XDG_CACHE_HOME": str(tmp_path / "none")}
    for name in ("CMAKE_C_COMPILER_LAUNCHER", "CMAKE_CXX_COMPILER_LAUNCHER"):
        env.pop(name, None)

    def run(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=1100)

    def configure(*options, parts=(), build=tmp_path / "build"):
        return run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja",
                   *(f"-DPCACHE_BUILD_{part}={'ON' if part in parts else 'OFF'}" for part in PARTS),
                   *(f"-DCMAKE_DISABLE_FIND_PACKAGE_{package}=ON" for package in HIDDEN), *options)
    configure.run = run
    return configure


def ccache_folder():
    """Where it is now; it would follow XDG_CACHE_HOME."""
    if not shutil.which("ccache"):
        return ""
    return subprocess.run(["ccache", "--get-config", "cache_dir"], capture_output=True, text=True,
                          check=True).stdout.strip()


@pytest.fixture
def beside_sources():
    """A build directory from which the sources have the same relative path as from build/: ccache has the objects."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="build-bare-", dir=ROOT))
    yield folder
    shutil.rmtree(folder)


def good(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.hang_seconds(1200)
def test_the_library_alone_is_built_installed_and_used(bare, beside_sources, tmp_path):
    good(bare("-DPCACHE_WERROR=ON", build=beside_sources))  # as in build/
    good(bare.run("cmake", "--build", beside_sources, "-j2", "--target", "pcache"))
    assert not list(beside_sources.glob("bin/*"))
    prefix = tmp_path / "prefix"
    good(bare.run("cmake", "--install", beside_sources, "--prefix", prefix))
    (tmp_path / "program.c").write_text(PROGRAM)
    good(bare.run("cc", "-Wall", "-Werror", "-o", tmp_path / "program", tmp_path / "program.c", f"-I{prefix}/include",
                  f"-L{prefix}/lib", "-lpcache", f"-Wl,-rpath,{prefix}/lib"))
    assert good(bare.run(tmp_path / "program")).count(".") == 2


@pytest.mark.parametrize("part, lacks", [("TOOLS", "blkid"), ("ENGINE", "No source tree of fio"), ("BENCH", "CLI11"),
                                         ("TESTS", "GTest")])
def test_a_part_that_is_asked_for_needs_more(bare, part, lacks):
    """So what the library is built without is really hidden."""
    done = bare(parts=[part])
    assert done.returncode != 0 and lacks in done.stdout + done.stderr


def test_warnings_are_errors_for_developers_alone(bare, tmp_path):
    good(bare("-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"))
    assert "-Werror" not in (tmp_path / "build" / "compile_commands.json").read_text()
    good(bare("-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", "-DPCACHE_WERROR=ON"))
    assert "-Werror" in (tmp_path / "build" / "compile_commands.json").read_text()
