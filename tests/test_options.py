# SPDX-License-Identifier: GPL-2.0-or-later
"""Every option of pcache_options: its default, its values, what contradicts, what is persistent."""

import ctypes
import errno
import re

import pytest

from measure import libpcache
from measure.libpcache import FUA, IO_AUTO, IO_THREADS, IO_URING, MIB, PREFAULT_ATTACH, PREFAULT_BESIDE, PcacheError
from support import PAGE, patch, peek, read_all, stamp, wait_until

METHOD_FLAGS = {"flushcache": "sse2", "clflushopt": "clflushopt", "clwb": "clwb", "movdir64b": "movdir64b"}


def refused(pair, code, *words, **options):
    with pytest.raises(PcacheError) as caught:
        pair.open(**options)
    assert caught.value.code == code, caught.value.text
    for word in words:
        assert str(word) in caught.value.text, f"{word!r} is not named in: {caught.value.text}"


def test_defaults(pair):
    info = pair.open().info
    assert (info.data_crc, info.gc_percent, info.emulated, info.block_size) == (0, 70, 1, 512)
    assert (info.segments, info.cache_bytes, info.logical_bytes) == (31, 512 * MIB, 16 * MIB)
    assert info.pmem_kind == b"emulated"
    assert info.persist.decode() in {*METHOD_FLAGS, "by size"}
    assert info.io_mode in (b"io_uring", b"threads")


@pytest.mark.parametrize("options", [
    {"emulate_pmem": 2}, {"emulate_pmem": -1}, {"force": 2}, {"force": -1}, {"data_crc": 2}, {"data_crc": -2},
    {"gc_percent": 91}, {"gc_percent": -2}, {"gc_percent": 256}, {"gc_percent": 2 ** 32}, {"io_mode": 3},
    {"io_mode": -1}, {"flush_delay_ms": 0}, {"flush_delay_ms": 2 ** 32 - 1}, {"persist": "clflush"},
    {"persist": "CLWB"}, {"persist": "clwb "}, {"cache_size": 1}, {"cache_size": 512 * MIB - 1},
    {"writeback_rate": 1}, {"writeback_rate": 2 ** 40 + 1}, {"seq_cutoff": 4095},
    {"policy": 3}, {"policy": -1}, {"prefault": 2}, {"prefault": -1},
    {"role": 2}, {"role": -1}, {"data_crc_check": 2}, {"huge_pages": 2},
    {"read_ahead": 4095}, {"read_ahead": 4 * MIB + 1}], ids=str)
def test_values_out_of_range(pair, shm, options):
    """Hazard option-truncated. The line names the option and the value; no cache file is made for it."""
    pair.cache_path = shm / "new"
    (name, value), = options.items()
    options = {"cache_size": 512 * MIB, **options}
    refused(pair, errno.EINVAL, name, value, **options)
    assert not pair.cache_path.exists()


def test_a_struct_that_is_too_small_is_refused(pair):
    for size in (0, 8, 39):
        refused(pair, errno.EINVAL, size, size=size)


# ---- The table, and by name from text ----

@pytest.mark.parametrize("name", libpcache.OPTIONS)
def test_set_gives_back_what_get_gives(name):
    raw, option = libpcache.new_options(), libpcache.OPTIONS[name]
    assert libpcache.get_option(raw, name) == option.initial
    if option.type != libpcache.TEXT:
        libpcache.set_option(raw, name, option.initial)
    for text in list(option.choices) + ([str(option.least), str(option.most)] if option.most else []):
        libpcache.set_option(raw, name, text)
        assert libpcache.get_option(raw, name) == text


@pytest.mark.parametrize("name", [name for name, option in libpcache.OPTIONS.items()
                                  if option.type != libpcache.TEXT])
@pytest.mark.parametrize("text", ["", "-1", "x", "99999999999999999999"])
def test_set_refuses_in_one_line_and_changes_nothing(name, text):
    raw, option = libpcache.new_options(), libpcache.OPTIONS[name]
    before = bytes(raw)
    with pytest.raises(PcacheError) as caught:
        libpcache.set_option(raw, name, text)
    assert caught.value.code == errno.EINVAL
    assert caught.value.text == f"option {name}={text}: expected {option.expected}"
    assert bytes(raw) == before


def test_an_option_that_there_is_not():
    raw = libpcache.new_options()
    with pytest.raises(PcacheError, match="option nonsense: .*gc_percent") as caught:
        libpcache.set_option(raw, "nonsense", "1")
    assert caught.value.code == errno.ENOENT
    info = libpcache._OptionInfo(size=ctypes.sizeof(libpcache._OptionInfo))  # pylint: disable=protected-access
    assert libpcache.LIB.pcache_option_describe(len(libpcache.OPTIONS), ctypes.byref(info)) == -errno.ENOENT


# ---- What each front knows is what the table says; stats_file, stats_interval and filename are the engine's own ----

def paragraphs(text, start):
    """Those of a manual that begin so, by the name behind `start`."""
    return {match[1]: " ".join(match[0].split()) for match in
            re.finditer(rf"^{start}(\w+)\*\*=.*?(?=\n\n)", text, flags=re.M | re.S)}


def test_the_engines_manual_has_what_the_table_has():
    """engine/README.md: a paragraph for each option, with its values, its range and its default."""
    manual = paragraphs((libpcache.ROOT / "engine" / "README.md").read_text().split("## Options")[1]
                        .split("## Semantics")[0], r"\*\*")
    taken = {option.fio: option for option in libpcache.OPTIONS.values() if option.fio}
    assert set(manual) == set(taken) | {"stats_file", "stats_interval"}
    for name, option in taken.items():
        text = manual[name]
        for choice in option.choices:
            assert re.search(rf"\b{choice}\b", text), f"{name}: the choice {choice} is not in: {text}"
        if option.type == libpcache.NUMBER:
            assert f"{option.least} to {option.most}" in text
        default = option.fio_initial or option.initial
        if option.type in (libpcache.NUMBER, libpcache.CHOICE, libpcache.SWITCH) and default != "media":
            assert f"default {default}" in text, f"{name}: default {default} is not in: {text}"


def test_pcachectl_knows_what_the_table_says(ctl):
    """Of each subcommand's --help, and the manual page."""
    page = (libpcache.ROOT / "core" / "ctl" / "pcachectl.1").read_text().replace("\\-", "-")
    # Its own, of no cache: --force of format destroys what is there.
    own = {"format": {"--help", "--json", "--backing", "--force"}, "set": {"--help", "--json"}}
    subcommands = {sub for option in libpcache.OPTIONS.values() for sub in option.in_ctl}
    assert subcommands == set(own)
    for sub in subcommands:
        told = " ".join(ctl.run(sub, "--help").stdout.split("Examples:")[0].split())
        taken = {option.in_ctl[sub]: option for option in libpcache.OPTIONS.values() if sub in option.in_ctl}
        switches = {name for name in taken if name.startswith("--")}
        assert set(re.findall(r"--[a-z-]+", told)) == own[sub] | switches
        for name, option in taken.items():
            assert re.search(rf"{name}\b", told) and re.search(rf"{name}\b", page)
            assert name not in switches or f"{option.text} ({option.expected})" in told


# ---- data_crc ----

@pytest.mark.parametrize("value", [0, 1])
def test_data_crc_is_fixed_by_the_format(pair, value):
    with pair.open(data_crc=value) as cache:
        assert cache.info.data_crc == value and cache.status["cache"]["data_crc"] == bool(value)
        cache.write(0, b"d" * PAGE, flags=FUA)
    before = pair.digests()
    refused(pair, errno.EINVAL, "data_crc", pair.cache_path, value, 1 - value, data_crc=1 - value)
    assert pair.digests() == before
    for given in (-1, value):
        with pair.open(data_crc=given) as cache:
            assert cache.info.data_crc == value
            assert cache.read(0, PAGE) == b"d" * PAGE


# ---- gc_percent ----

def test_gc_percent_is_persistent(pair):
    pair.open(gc_percent=0).close()
    for given, want in ((-1, 0), (90, 90), (-1, 90), (33, 33), (-1, 33), (-1, 33), (0, 0), (-1, 0)):
        with pair.open(gc_percent=given) as cache:
            assert cache.info.gc_percent == want
            assert cache.status_line.split()[7] == str(want)


# ---- cache_size, emulate_pmem ----

def test_cache_size_creates_the_file(pair, shm):
    pair.cache_path = shm / "new"
    with pair.open(cache_size=528 * MIB) as cache:
        assert cache.info.cache_bytes == 528 * MIB and cache.info.segments == 32
        assert pair.cache_path.stat().st_mode & 0o777 == 0o600
        cache.write(0, b"n" * PAGE, flags=FUA)
    with pair.open() as cache:
        assert cache.read(0, PAGE) == b"n" * PAGE


def test_cache_size_of_a_formatted_cache(pair):
    """The format counts its segments once: more are refused, fewer ignored with a notice."""
    with pair.open(cache_size=544 * MIB) as cache:
        cache.write(0, b"s" * PAGE, flags=FUA)
    for given, notices in ((544 * MIB, 0), (512 * MIB, 1), (0, 0), (544 * MIB + 20479, 0)):
        with pair.open(cache_size=given) as cache:
            assert pair.cache_path.stat().st_size == 544 * MIB
            assert cache.info.segments == 33
            assert cache.read(0, PAGE) == b"s" * PAGE
            assert sum("never made smaller" in line for _, line in cache.log) == notices
    refused(pair, errno.EINVAL, "34 segments", "formatted with 33", "pcachectl resize", cache_size=545 * MIB)


def test_cache_size_extends_a_small_blank_file(pair, shm):
    pair.cache_path = shm / "small"
    pair.cache_path.touch()
    with pair.open(cache_size=512 * MIB) as cache:
        assert cache.info.segments == 31


def test_cache_size_needs_emulation(pair, shm):
    pair.cache_path = shm / "new"
    refused(pair, errno.EINVAL, "cache_size", "emulate_pmem", cache_size=512 * MIB, emulate_pmem=0)
    assert not pair.cache_path.exists()


def test_cache_size_on_a_directory_or_device(pair, shm):
    for path in (shm, "/dev/null"):
        pair.cache_path = path
        refused(pair, errno.EINVAL if path != shm else errno.EINVAL, path, cache_size=512 * MIB)


def test_emulation_is_warned_of(pair):
    cache = pair.open()
    assert [line for line in cache.warnings if "power loss" in line and str(pair.cache_path) in line]


def test_size_that_is_no_multiple_of_a_segment(pair):
    with pair.open(cache_size=530 * MIB) as cache:
        assert cache.info.segments == (530 * MIB - 20480) // (16 * MIB) == 33
        assert cache.info.cache_bytes >= 528 * MIB


# ---- persist ----

def cpu_flags():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        return set(next(line for line in f if line.startswith("flags")).split(":")[1].split())


@pytest.mark.parametrize("method", list(METHOD_FLAGS))
def test_persist_method(pair, method):
    """Works where the CPU has it, and is refused by name where it has not."""
    if METHOD_FLAGS[method] not in cpu_flags():
        before = pair.digests()
        refused(pair, errno.EOPNOTSUPP, method, "CPU", persist=method)
        assert pair.digests() == before
        return
    cache = pair.open(persist=method)
    assert cache.info.persist.decode() == method
    want = bytearray(stamp(0, 16 * MIB, 0))
    for tag, (off, length) in enumerate([(0, 512), (512, 4096), (5 * 512, 65536), (3 * MIB, 5 * MIB),
                                         (4096 - 512, 1024)], 1):
        for misalign in (0, 1):
            want[off:off + length] = stamp(off, length, tag)
            cache.write(off, stamp(off, length, tag), misalign=misalign)
    assert read_all(cache) == bytes(want)
    assert read_all(pair.reopen(cache, persist="auto")) == bytes(want)


@pytest.mark.parametrize("given", ["auto", ""])
def test_persist_auto(pair, given):
    """Which methods it chooses, one or several, is the measurement's affair; it measures what the CPU has."""
    cache = pair.open(persist=given)
    measured = cache.status["cache"]["persist_ns"]
    assert measured.keys() == {method for method, flag in METHOD_FLAGS.items() if flag in cpu_flags()}
    assert cache.info.persist.decode() in {*measured, "by size"}


def test_unknown_persist_method_lists_the_known(pair):
    refused(pair, errno.EINVAL, "magic", "flushcache", "clflushopt", "clwb", "movdir64b", persist="magic")


# ---- prefault ----

def mapped_bytes(path):
    """Of this process's mapping of the file: what a first touch does not fault on any more."""
    with open("/proc/self/smaps", encoding="utf-8") as file:
        text = file.read()
    found = re.findall(rf"^\S+ \S+ \S+ \S+ \S+ +{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", text, re.M)
    return sum(map(int, found)) * 1024


def test_prefault_attach_maps_all_pages_before_it_returns(pair):
    for _ in range(2):
        with pair.open(prefault=PREFAULT_ATTACH) as cache:
            assert mapped_bytes(pair.cache_path) == cache.info.cache_bytes


@pytest.mark.parametrize("options", [{}, {"prefault": PREFAULT_BESIDE}], ids=str)
def test_prefault_beside_maps_all_pages_in_the_end(pair, options):
    with pair.open(**options) as cache:
        cache.write(0, b"m" * PAGE, flags=FUA)
        wait_until(lambda: mapped_bytes(pair.cache_path) == cache.info.cache_bytes)
        assert cache.read(0, PAGE) == b"m" * PAGE


def test_prefault_beside_ends_with_the_cache(pair):
    for number in range(50):
        with pair.open() as cache:
            assert cache.read(0, PAGE) == stamp(0, PAGE, number)
            cache.write(0, stamp(0, PAGE, number + 1))


# ---- io_mode ----

@pytest.mark.parametrize("mode,name", [(IO_URING, b"io_uring"), (IO_THREADS, b"threads")])
def test_io_mode(pair, mode, name):
    """io_uring where it is permitted (its refusal by seccomp is tested in C++ with an injected init)."""
    try:
        cache = pair.open(io_mode=mode)
    except PcacheError as error:
        assert mode == IO_URING and "io_mode=threads" in error.text
        assert pair.open(io_mode=IO_AUTO).info.io_mode == b"threads"
        return
    assert cache.info.io_mode == name
    assert read_all(cache) == stamp(0, 16 * MIB, 0)


# ---- flush_delay_ms ----

@pytest.mark.parametrize("delay", [1, 50])
def test_open_ksets_are_closed_by_time(pair, delay):
    cache = pair.open(flush_delay_ms=delay)
    for round_ in range(3):
        for place in range(0, 16, 4):
            cache.write(place * MIB + round_ * PAGE, b"t" * PAGE)
        wait_until(lambda: cache.status["log"]["keys"] == 4 * (round_ + 1))
        assert cache.status["log"]["open_keys"] == 0
    assert cache.status["requests"]["flushes"] == 0


def test_open_kset_stays_open_for_a_long_delay(pair):
    cache = pair.open(flush_delay_ms=60000)
    cache.write(0, b"o" * PAGE)
    assert cache.status["log"]["open_keys"] == 1
    cache.flush()
    assert cache.status["log"]["open_keys"] == 0


# ---- log ----

def test_without_a_log_function_it_is_silent(pair, capfd):
    with pair.open(log=libpcache.NO_LOG) as cache:
        cache.read(0, PAGE)
        cache.write(0, b"q" * PAGE)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# ---- identity ----

def test_identity_block_is_written_once(pair):
    pair.open().close()
    block = peek(pair.cache_path, 0, PAGE)
    assert block[8:16] == b"PCACHEID"
    assert str(pair.backing_path.stat().st_ino).encode() in block
    pair.open().close()
    assert peek(pair.cache_path, 0, PAGE) == block


def test_identity_block_that_was_removed_is_written_again_with_a_notice(pair):
    pair.open().close()
    patch(pair.cache_path, 0, bytes(PAGE))
    with pair.open() as cache:
        assert any("identity" in line for _level, line in cache.log)
    assert peek(pair.cache_path, 8, 8) == b"PCACHEID"


def test_version(pair):
    assert libpcache.LIB.pcache_version().decode().count(".") == 2
    assert pair.open().status["version"] == 1


def test_status_has_the_fields_that_the_library_lists(pair):
    """And persist_ns, which is there with persist=auto alone."""
    with pair.open(persist="flushcache") as cache:
        status = cache.status
    found = {(part, name) for part, value in status.items() if isinstance(value, dict) for name in value}
    found |= {("", name) for name, value in status.items() if not isinstance(value, dict)}
    assert found == set(libpcache.STATUS_FIELDS)
    assert all(len(text) > 2 for text in libpcache.STATUS_FIELDS.values())
