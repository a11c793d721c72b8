# SPDX-License-Identifier: GPL-2.0-or-later
"""What the built libraries export and need."""

import re
import subprocess

import pytest

from measure.libpcache import BUILD, ROOT

LIBS = BUILD / "lib"


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def exported(path):
    return {line.split()[-1].split("@")[0] for line in run("nm", "-D", "--defined-only", str(path)).splitlines()
            if line.split()[-2] != "A"}


def dynamic(path, tag):
    return re.findall(rf"\({tag}\).*\[(.*)\]", run("readelf", "-d", str(path)))


def test_exports_only_pcache():
    names = exported(LIBS / "libpcache.so")
    assert names and all(name.startswith("pcache_") for name in names), names


@pytest.mark.parametrize("header", ["pcache.h", "pcache_raw.h"])
def test_exports_are_what_the_headers_declare(header):
    text = (ROOT / "core" / "include" / header).read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    declared = set(re.findall(r"^[a-z][^;{}]*?\b(pcache_\w+)\(", text, flags=re.M))
    assert len(declared) > 4
    assert declared <= exported(LIBS / "libpcache.so")


def test_exports_nothing_undeclared():
    text = "".join(path.read_text() for path in (ROOT / "core" / "include").glob("*.h"))
    assert not [name for name in exported(LIBS / "libpcache.so") if not re.search(rf"\b{name}\(", text)]


def test_soname():
    assert dynamic(LIBS / "libpcache.so", "SONAME") == ["libpcache.so.1"]


@pytest.mark.parametrize("engine", ["libpcache_fio.so", "libpcache_raw.so"])
def test_fio_engine_finds_the_library(engine):
    """Beside itself, without LD_LIBRARY_PATH; and it stays loaded while a cache lives."""
    path = LIBS / engine
    assert dynamic(path, "RUNPATH") == ["$ORIGIN"]
    assert "libpcache.so.1" in dynamic(path, "NEEDED")
    assert "NODELETE" in run("readelf", "-d", str(path))
    resolved = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True,
                              env={"PATH": "/usr/bin:/bin"}).stdout
    assert re.search(rf"libpcache\.so\.1 => {re.escape(str(LIBS.resolve()))}/", resolved), resolved
    assert "not found" not in resolved


def test_fio_engine_exports_only_the_engine():
    assert exported(LIBS / "libpcache_fio.so") <= {"ioengine", "get_ioengine"}


def test_needs_are_debian_packages_of_the_readme():
    """Nothing from beyond the base and what scripts/setup installs."""
    allowed = r"lib(pmem2|uring|isal|stdc\+\+|gcc_s|c|m|pthread)\.so\.\d+|ld-linux-x86-64\.so\.2"
    odd = [name for name in dynamic(LIBS / "libpcache.so", "NEEDED") if not re.fullmatch(allowed, name)]
    assert not odd


def test_registers_no_destructor_of_a_thread():
    """Registering one takes memory, and without it glibc ends the process: at the first lock of a thread."""
    imported = run("nm", "-D", "--undefined-only", str(LIBS / "libpcache.so"))
    assert "malloc" in imported or "_Znwm" in imported
    assert "__cxa_thread_atexit" not in imported


def test_no_instruction_set_beyond_the_base_is_needed():
    """No -march=native in the shipped build: what is newer is chosen at run time."""
    notes = run("readelf", "-n", str(LIBS / "libpcache.so"))
    needed = re.findall(r"x86 ISA needed: (.*)", notes)
    assert all(set(line.split(", ")) <= {"x86-64-baseline"} for line in needed)
