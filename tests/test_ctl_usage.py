# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for every subcommand of pcachectl: wrong use, devices that are not there or in use, stdout."""

import os
import re
import subprocess

import pytest

from ctl import DONE, FAILED, UNTRUSTED
from measure.libpcache import MIB
from support import Pair, digest, stamp

# CACHE and BACKING stand for the paths, NEW for a file that is not there.
COMMANDS = {
    "status": ["status", "CACHE"],
    "status --line": ["status", "CACHE", "--line"],
    "status --backing": ["status", "CACHE", "--backing", "BACKING"],
    "table": ["table", "CACHE", "--backing", "BACKING"],
    "check": ["check", "CACHE"],
    "check --backing": ["check", "CACHE", "--backing", "BACKING"],
    "dump": ["dump", "CACHE"],
    "dump --range": ["dump", "CACHE", "--range", "0+4K"],
    "export": ["export", "CACHE", "--backing", "BACKING", "--to", "NEW"],
    "export --force": ["export", "CACHE", "--backing", "BACKING", "--to", "NEW", "--force"],
    "writeback": ["writeback", "CACHE", "--to", "BACKING"],
    "repair": ["repair", "CACHE", "--backing", "BACKING"],
    "repair --yes": ["repair", "CACHE", "--yes"],
    "resize": ["resize", "CACHE"],
    "set": ["set", "CACHE", "gc_percent", "50"],
    "identity show": ["identity", "show", "CACHE"],
    "calibrate": ["calibrate", "CACHE"],
    "identity set": ["identity", "set", "CACHE", "--backing", "BACKING"],
    "format --force": ["format", "CACHE", "--force"],
}
# What is of attached caches alone: test_control.py.
OF_ATTACHED = {"list", "flush", "drain", "stats", "metrics", "resize-backing"}
every_command = pytest.mark.parametrize("command", COMMANDS)
with_backing = pytest.mark.parametrize("command", [name for name, line in COMMANDS.items() if "BACKING" in line])


def filled(command, disk, cache, backing="nothing"):
    places = {"CACHE": cache, "BACKING": backing, "NEW": disk / "new"}
    return [places.get(word, word) for word in COMMANDS[command]]


@pytest.fixture
def written(pair):
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(0, stamp(0, MIB, 1))
    return pair


@every_command
def test_all_is_well(ctl, written, disk, command):
    """What the refusals below are compared with."""
    ctl.run(*filled(command, disk, written.cache_path, written.backing_path))


@every_command
def test_missing_cache(ctl, pair, disk, command):
    line = filled(command, disk, disk / "missing", pair.backing_path)
    assert f"{disk}/missing" in ctl.refused(*line)
    assert not (disk / "missing").exists() and not (disk / "new").exists()


@every_command
def test_cache_that_is_none(ctl, pair, disk, command):
    """A directory, a character device, a pipe: none of them is waited for."""
    os.mkfifo(disk / "pipe")
    for cache in (disk, "/dev/null", disk / "pipe", ""):
        ctl.refused(*filled(command, disk, cache, pair.backing_path), timeout=60)


@with_backing
def test_missing_backing(ctl, written, disk, command):
    before = written.digests()
    os.mkfifo(disk / "pipe")
    for backing in (disk / "missing", disk, "/dev/null", disk / "pipe"):
        ctl.refused(*filled(command, disk, written.cache_path, backing), timeout=60)
    assert written.digests() == before and not (disk / "missing").exists() and not (disk / "new").exists()


@every_command
def test_in_use(ctl, written, disk, command):
    """Attached by the library: nothing reads a moving image, nothing is written into it."""
    with written.open(control="off") as cache:  # else status and set ask it: test_control.py
        told = ctl.refused(*filled(command, disk, written.cache_path, written.backing_path))
        assert str(written.cache_path) in told or str(written.backing_path) in told
        cache.write(MIB, stamp(MIB, MIB, 2))
        assert cache.read(0, 2 * MIB) == stamp(0, MIB, 1) + stamp(MIB, MIB, 2)
    assert not (disk / "new").exists()


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "export --force"])
def test_too_small(ctl, pair, disk, command):
    """No cache is that small: a refusal, whichever way the subcommand tells it."""
    for size in (0, 512, 4 * MIB):
        (disk / "small").write_bytes(bytes(size))
        before = digest(disk / "small")
        done = ctl.call(*filled(command, disk, disk / "small", pair.backing_path))
        assert done.returncode in (UNTRUSTED, FAILED), f"{size}: {done}"
        assert len(done.stderr.splitlines()) == (0 if command.split()[0] in ("check", "repair") and
                                                 done.returncode == UNTRUSTED else 1)
        assert digest(disk / "small") == before and not (disk / "new").exists()


BLANK_IS_WELL = {"status", "status --backing", "check", "check --backing", "export --force", "repair",
                 "repair --yes", "identity show", "format --force"}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "status --line"])
def test_blank(ctl, pair, disk, command):
    """Where there is nothing to be done about a blank device, that is said, and it stays blank."""
    before = pair.digests()
    line = filled(command, disk, pair.cache_path, pair.backing_path)
    if command in BLANK_IS_WELL:
        ctl.run(*line)
    else:
        assert "blank" in ctl.refused(*line)
    if command != "format --force":
        assert pair.digests() == before


def test_blank_has_no_status_line(ctl, pair):
    """A program that wants the kernel target's 12 fields gets them, or a failure."""
    assert "blank" in ctl.refused("status", "--line", pair.cache_path)


@every_command
def test_stdout_that_cannot_be_written(ctl, written, disk, command):
    """A full device and a closed stdout: what was asked for was not delivered."""
    with open("/dev/full", "w") as full:
        ctl.run(*filled(command, disk, written.cache_path, written.backing_path), code=FAILED, stdout=full)
    (disk / "new").unlink(missing_ok=True)
    line = ctl.argv(*filled(command, disk, written.cache_path, written.backing_path))
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *line], stderr=subprocess.PIPE, text=True, cwd=disk,
                            check=False)
    assert closed.returncode == FAILED and closed.stderr == "pcachectl: stdout: cannot be written\n"
    ctl.run("check", written.cache_path, "--backing", written.backing_path)
    assert written.backing_path.exists()


@pytest.mark.parametrize("line", [["--help"], ["--version"], ["check", "--help"], ["identity", "show", "--help"]])
def test_help(ctl, line):
    assert ctl.run(*line).stdout
    with open("/dev/full", "w") as full:
        ctl.run(*line, code=FAILED, stdout=full)


@pytest.mark.parametrize("line", [[], ["frobnicate"], ["check"], ["check", "--frobnicate"], ["--frobnicate"], [""],
                                  ["check", "CACHE", "BACKING"], ["check", "CACHE", "--backing"],
                                  ["check", "CACHE", "check", "CACHE"], ["status", "CACHE", "table", "CACHE"],
                                  ["check", "CACHE", "--json=maybe"], ["table", "CACHE"], ["export", "CACHE"],
                                  ["export", "CACHE", "--to", "NEW"], ["writeback", "CACHE"],
                                  ["dump", "CACHE", "--what"], ["--json", "check", "CACHE"],
                                  ["check", "CACHE", "--back", "BACKING"]])
def test_wrong_use(ctl, written, disk, line):
    before = written.digests()
    places = {"CACHE": written.cache_path, "BACKING": written.backing_path, "NEW": disk / "new"}
    assert "--help" in ctl.refused(*[places.get(word, word) for word in line])
    assert written.digests() == before


# What takes a number: how it is given, one that is good, and what is said to be expected.
NUMBERS = {
    "format --size": (["format", "NEW", "--size=N"], "512M", "a size"),
    "format --gc-percent": (["format", "NEW", "--size=512M", "--gc-percent=N"], "50", "a number from 0 to 90"),
    "format --data-crc": (["format", "NEW", "--size=512M", "--data-crc=N"], "1", "0, 1 or media"),
    "resize --size": (["resize", "CACHE", "--size=N"], "512M", "a size"),
    "dump --range": (["dump", "CACHE", "--range=N+512"], "4K", "OFF+LEN in bytes"),
    "dump --range, LEN": (["dump", "CACHE", "--range=0+N"], "4K", "OFF+LEN in bytes"),
    "set VALUE": (["set", "CACHE", "gc_percent", "N"], "50", "a number from 0 to 90"),
}
# What has a value of another kind: a path, or words.
NO_NUMBERS = {"CACHE", "--backing", "--to", "--keep", "--restore", "--what", "--cache-mode", "set NAME"}
TESTED_ATTACHED = {"status --interval", "status --count"}  # test_control.py
# 2^63, 2^64 and their neighbours by unit; what C's own functions take for numbers.
NONE_OF_THEM = ["-1", "-0", "-512", "-1G", "-9223372036854775808", "+1", "9223372036854775808", "18446744073709551104",
                "18446744073709551615", "18446744073709551616", "18446744073709552128", "8192P", "16384P",
                "8796093022208M", "17179869184G", "99999999999999999999999", "1e3", "0x200", "1.5G", "1_000", " 512",
                "512 ", "5 12", "G", "1GG", "512x", "inf", "nan"]


def filled_number(number, pair, disk, value):
    places = {"CACHE": pair.cache_path, "NEW": disk / "new"}
    return [places.get(word, re.sub(r"(?<=[=+])N|^N$", value, word)) for word in NUMBERS[number][0]]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers(ctl, written, disk, number):
    """Each is refused in one line of ours, which names it and says what is expected; nothing is touched."""
    good, expected = NUMBERS[number][1:]
    ctl.run(*filled_number(number, written, disk, good))
    (disk / "new").unlink(missing_ok=True)
    before = written.digests()
    for value in NONE_OF_THEM:
        told = ctl.refused(*filled_number(number, written, disk, value))
        assert f"expected {expected}" in told and value in told, told
        assert not (disk / "new").exists()
    assert written.digests() == before


@pytest.mark.parametrize("number", [number for number in NUMBERS if number != "format --data-crc"])
def test_numbers_that_are_empty(ctl, written, disk, number):
    """As a word of its own. (A switch has none: --data-crc= is --data-crc.)"""
    before = written.digests()
    line = [word for words in filled_number(number, written, disk, "") for word in str(words).split("=", 1)]
    assert f"expected {NUMBERS[number][2]}" in ctl.refused(*line)
    assert written.digests() == before and not (disk / "new").exists()


def test_every_number_is_tested(ctl):
    """What has a value, by its help, takes a number and is in the table above, or takes none."""
    for name in {" ".join(name.split()[:2 if name.startswith("identity") else 1]) for name in COMMANDS}:
        told = ctl.run(*name.split(), "--help").stdout.split("\nExamples:")[0]
        for option, rest in re.findall(r"^  (--[a-z-]+|[A-Z]+)(.*)", told, re.MULTILINE):
            if rest.startswith((" TEXT", "{")) or not rest.startswith("  "):
                known = NUMBERS.keys() | NO_NUMBERS | TESTED_ATTACHED
                assert {f"{name} {option}", option} & known, f"{name}: {option}{rest}"


def test_wrong_subcommand_is_named(ctl):
    assert "frobnicate" in ctl.refused("frobnicate")


def test_every_subcommand_is_tested_and_helps(ctl):
    listed = ctl.run("--help").stdout.split("Subcommands:\n")[1].split("\n\n")[0]
    names = {line.split()[0] for line in listed.splitlines()}
    assert names == {name.split()[0] for name in COMMANDS} | OF_ATTACHED
    for name in names:
        assert f"Usage: pcachectl {name}" in ctl.run(name, "--help").stdout


@pytest.mark.parametrize("name", ["a b", os.fsdecode(b"\xff\xfe"), "new\nline", "%s%n"])
def test_strange_file_names(ctl, disk, written, name):
    """Spaces, bytes that are no UTF-8, a newline: all of it works, JSON stays JSON."""
    os.symlink(written.cache_path, f"{disk}/{name}")
    ctl.json("check", f"{disk}/{name}")
    ctl.json("export", f"{disk}/{name}", "--backing", written.backing_path, "--to", f"{disk}/{name}.out")
    assert os.path.getsize(f"{disk}/{name}.out") == 16 * MIB


@pytest.mark.parametrize("name", ["a b", os.fsdecode(b"\xff\xfe"), "new\nline", "%s%n"])
def test_strange_file_names_in_errors(ctl, disk, name):
    """An error stays one line."""
    ctl.refused("check", f"{disk}/{name}")


def test_cache_is_its_own_backing_device(ctl, written, disk):
    """Refused where something would be written."""
    before = written.digests()
    same = Pair(written.cache_path, written.cache_path)
    for command in ("writeback", "identity set"):
        done = ctl.call(*filled(command, disk, same.cache_path, same.backing_path))
        assert done.returncode in (UNTRUSTED, FAILED) and len(done.stderr.splitlines()) == 1
    assert written.digests() == before


def test_output_is_nothing_but_results(ctl, written):
    """--json: one object a line, stderr empty."""
    for command in ("status", "check", "dump"):
        assert all(isinstance(one, dict) for one in ctl.jsons(command, written.cache_path))
    assert ctl.run("status", written.cache_path, code=DONE).stderr == ""
