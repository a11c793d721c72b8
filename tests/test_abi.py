# SPDX-License-Identifier: GPL-2.0-or-later
"""What the built libraries export and need."""

import os
import re
import shutil
import subprocess

import pytest

import abi
from measure.libpcache import BUILD, ROOT
from support import TESTDATA

LIBS = BUILD / "lib"
OLDER = TESTDATA / "older"


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


def test_exports_are_exactly_what_the_headers_declare():
    assert exported(LIBS / "libpcache.so") == set(abi.declarations())


# ---- core/capi/libpcache.abi, and what may change ----

@pytest.fixture
def abigail():
    if abi.missing():
        pytest.skip(f"{', '.join(abi.missing())}: not installed: scripts/setup installs abigail-tools")


def test_the_abi_is_the_one_that_is_described(abigail, tmp_path):
    broken, changed = abi.compare(abi.describe(tmp_path))
    assert not broken, f"older programs notice it, see core/capi/ABI.md:\n{broken}"
    assert not changed, f"older programs do not notice it: tests/abi.py --accept, and commit it\n{changed}"


OPTION = 'PCACHE_OPTION(more, NUMBER, 0, 9, 0, "", "", "", "", "More", "A text", {})\n'
NOTICED, GROWN = True, False


@pytest.mark.parametrize("what,header,old,new,noticed", [
    ("an option more", "pcache_options.def", None, OPTION, GROWN),
    ("an option in between", "pcache_options.def", "PCACHE_OPTION(drain,", OPTION + "PCACHE_OPTION(drain,", NOTICED),
    ("an option of another kind", "pcache_options.def", "(persist, NAME", "(persist, NUMBER", NOTICED),
    ("a field more", "pcache.h", "pcache_cache_mode */\n};", "pcache_cache_mode */ uint64_t more;\n};", GROWN),
    ("a field in between", "pcache.h", "uint32_t segments;", "uint64_t more; uint32_t segments;", NOTICED),
    ("a field of another name", "pcache.h", "char io_mode[16];", "char mode_io[16];", NOTICED),
    ("a larger request", "pcache.h", "void* user; /*", "void* user; void* more; /*", NOTICED),
    ("a larger error", "pcache.h", "char text[508]", "char text[1020]", NOTICED),
    ("a larger choice", "pcache.h", "  int64_t value; /*", "  int64_t value, more; /*", NOTICED),
    ("a function more", "pcache.h", "const char* pcache_version(void);",
     "const char* pcache_version(void);\nint pcache_more(int a);", GROWN),
    ("a function less", "pcache.h", "const char* pcache_version(void);", "", NOTICED),
    ("an argument more", "pcache.h", "cancel(pcache_queue* queue)", "cancel(pcache_queue* queue, int how)", NOTICED),
    ("another result", "pcache.h", "uint32_t pcache_queue_in", "int64_t pcache_queue_in", NOTICED),
    ("another callback", "pcache.h", "level, const char* line)", "level, const char* line, int more)", NOTICED),
    ("a value more", "pcache.h", "PCACHE_OP_FLUSH = 2,", "PCACHE_OP_FLUSH = 2, PCACHE_OP_MORE = 9,", GROWN),
    ("a value less", "pcache.h", ", PCACHE_STATUS_JSON = 1 }", "}", NOTICED),
    ("another value", "pcache.h", "PCACHE_OP_FLUSH = 2,", "PCACHE_OP_FLUSH = 7,", NOTICED),
    ("another flag", "pcache.h", "PCACHE_REQ_FUA 1u", "PCACHE_REQ_FUA 4u", NOTICED)], ids=lambda value: str(value)[:25])
def test_a_change_is_told_from_growth(abigail, tmp_path, what, header, old, new, noticed):
    headers = tmp_path / "include"
    shutil.copytree(abi.HEADERS, headers)
    text = (headers / header).read_text()
    assert old is None or old in text, what
    (headers / header).write_text(text + new if old is None else text.replace(old, new, 1))
    broken, changed = abi.compare(abi.describe(tmp_path, headers))
    assert changed, what
    assert bool(broken) == noticed, changed


def run_c_program(source, headers, program, disk, shm):
    """Built with these headers, over a blank cache file and a backing file, it says that all is well."""
    subprocess.run(["cc", "-Wall", "-Werror", "-I", headers, source, "-o", program, f"-L{LIBS}", "-lpcache",
                    f"-Wl,-rpath,{LIBS}"], check=True)
    cache, backing = shm / "cache", disk / "backing"
    for path, size in ((cache, 512 << 20), (backing, 16 << 20)):
        path.touch()
        os.truncate(path, size)
    done = subprocess.run([program, cache, backing], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr


def test_a_program_with_an_older_and_smaller_header(tmp_path, disk, shm):
    """Built with testdata/older/pcache.h, its structs with guarded bytes behind them, it runs with today's library."""
    run_c_program(OLDER / "older.c", OLDER, tmp_path / "older", disk, shm)


def test_a_program_changes_the_options_of_an_open_cache(tmp_path, disk, shm):
    """settings.c: pcache_set() with good values and bad ones."""
    run_c_program(ROOT / "tests" / "settings.c", abi.HEADERS, tmp_path / "settings", disk, shm)


def test_soname():
    assert dynamic(LIBS / "libpcache.so", "SONAME") == ["libpcache.so.2"]


@pytest.mark.parametrize("engine", ["libpcache_fio.so", "libpcache_raw.so"])
def test_fio_engine_finds_the_library(engine):
    """Beside itself, without LD_LIBRARY_PATH; and it stays loaded while a cache lives."""
    path = LIBS / engine
    assert dynamic(path, "RUNPATH") == ["$ORIGIN"]
    assert "libpcache.so.2" in dynamic(path, "NEEDED")
    assert "NODELETE" in run("readelf", "-d", str(path))
    resolved = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True,
                              env={"PATH": "/usr/bin:/bin"}).stdout
    assert re.search(rf"libpcache\.so\.2 => {re.escape(str(LIBS.resolve()))}/", resolved), resolved
    assert "not found" not in resolved


def test_fio_engine_exports_only_the_engine():
    assert exported(LIBS / "libpcache_fio.so") <= {"ioengine", "get_ioengine"}


def test_needs_are_debian_packages_of_the_readme():
    """Nothing from beyond the base and what scripts/setup installs."""
    allowed = r"lib(pmem2|uring|nbd|isal|stdc\+\+|gcc_s|c|m|pthread)\.so\.\d+|ld-linux-x86-64\.so\.2"
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
