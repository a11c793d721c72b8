# SPDX-License-Identifier: GPL-2.0-or-later
"""nbdkit's plugin, by NBD's own clients: what is written is read, by whichever client and connection, and stays."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess

import pytest

from fio import FIO
from measure.libpcache import BUILD
from support import file_state, wait_until

# By default qemu-io gives each write FUA.
QEMU_IO = ["-t", "writeback", "-f", "raw"]
PLUGIN = BUILD / "lib/nbdkit-pcache-plugin.so"
BLOCK = 4096


def tool(name, package):
    found = shutil.which(name)
    assert found, f"{name} is missing: scripts/setup installs {package}"
    return found


def good(*command, **more):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def command(pair, *options):
    return [tool("nbdkit", "nbdkit"), "--foreground", "--exit-with-parent", PLUGIN, f"cache_dev={pair.cache_path}",
            f"backing={pair.backing_path}", "emulate_pmem=1", *options]


@contextlib.contextmanager
def served(pair, tmp_path, *options, killed=False, errors=False):
    """The URI of a server; it is told to end, and has ended, at the end. `killed`: by the test. `errors`: it may say
    some."""
    socket = tmp_path / "socket"
    pid = tmp_path / "pid"  # is there when the server takes connections
    words = command(pair, *options)
    server = subprocess.Popen([*map(str, words[:1]), "--unix", socket, "--pidfile", pid, *map(str, words[1:])],
                              stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: pid.exists() or server.poll() is not None)
        assert server.poll() is None, server.stderr.read()
        yield f"nbd+unix:///?socket={socket}", server
    finally:
        server.terminate()
        said = server.communicate(timeout=60)[1]
        for path in (socket, pid):
            path.unlink(missing_ok=True)
    assert server.returncode in (0, -signal.SIGKILL if killed else 0), said
    assert errors or "error" not in said, said


def content(pair):
    """What the cache and its device hold together."""
    whole = pair.backing_path.parent / "whole"
    good(BUILD / "bin/pcachectl", "export", pair.cache_path, "--backing", pair.backing_path, "--to", whole, "--force")
    data = whole.read_bytes()
    whole.unlink()
    return data


def test_it_says_what_it_is(pair, tmp_path):
    with served(pair, tmp_path) as (uri, _):
        info = json.loads(good(tool("nbdinfo", "libnbd-bin"), "--json", uri))["exports"][0]
    assert info["export-size"] == pair.backing_path.stat().st_size
    assert info["can_flush"] and info["can_fua"] and info["can_multi_conn"] and not info["is_read_only"]
    assert info["block_size_minimum"] == 1 and info["block_size_preferred"] == BLOCK


def test_what_nbdcopy_writes_is_there(pair, tmp_path):
    size = pair.backing_path.stat().st_size
    source = tmp_path / "source"
    source.write_bytes(random.Random(1).randbytes(size))
    nbdcopy = tool("nbdcopy", "libnbd-bin")
    with served(pair, tmp_path) as (uri, _):
        good(nbdcopy, "--flush", source, uri)
        good(nbdcopy, uri, tmp_path / "read")
    assert (tmp_path / "read").read_bytes() == source.read_bytes() == content(pair)


def test_fio_verifies_over_several_connections(pair, tmp_path):
    with served(pair, tmp_path) as (uri, _):
        good(FIO, "--ioengine=nbd", f"--uri={uri}", "--name=job", "--rw=randwrite", "--bs=4k", "--size=8m",
             "--iodepth=16", "--numjobs=2", "--offset_increment=8m", "--verify=crc32c", "--fsync=64", "--thread",
             cwd=tmp_path)
    good(BUILD / "bin/pcachectl", "check", pair.cache_path, "--backing", pair.backing_path)


@pytest.mark.parametrize("seed", range(3))
def test_requests_of_any_length_and_offset(pair, tmp_path, seed):
    """qemu-io writes and reads against a model, in pieces that are no blocks."""
    draw = random.Random(seed)
    model = bytearray(pair.backing_path.read_bytes()[:1 << 20])
    commands = []
    for _ in range(150):
        off, bytes_ = draw.randrange(len(model)), draw.choice([1, 7, 511, 512, 513, 4095, 4096, 4097, 70000])
        bytes_ = min(bytes_, len(model) - off)
        pattern = draw.randrange(1, 256)
        model[off:off + bytes_] = bytes([pattern]) * bytes_
        commands += ["-c", f"write -P {pattern}{draw.choice(['', ' -f'])} {off} {bytes_}"]
        commands += ["-c", f"read -P {pattern} {off} {bytes_}"]
    commands += ["-c", "flush"]
    with served(pair, tmp_path) as (uri, _):
        said = good(tool("qemu-io", "qemu-utils"), *QEMU_IO, *commands, uri)
        assert "verification failed" not in said
        good(tool("nbdcopy", "libnbd-bin"), uri, tmp_path / "read")
    assert (tmp_path / "read").read_bytes()[:len(model)] == model
    assert content(pair)[:len(model)] == model


def test_parts_of_one_block_from_many_connections(pair, tmp_path):
    """Each writes its own bytes of the same blocks, at the same time: none loses another's."""
    parts, blocks = 8, 64
    width = 512 // parts
    with served(pair, tmp_path) as (uri, _):
        writers = []
        for part in range(parts):
            commands = [word for block in range(blocks)
                        for word in ("-c", f"write -P {part + 1} {block * 512 + part * width} {width}")]
            writers.append(subprocess.Popen([tool("qemu-io", "qemu-utils"), *QEMU_IO, *commands, uri],
                                            stdout=subprocess.DEVNULL))
        assert [writer.wait(timeout=120) for writer in writers] == [0] * parts
        good(tool("nbdcopy", "libnbd-bin"), uri, tmp_path / "read")
    expected = b"".join(bytes([part + 1]) * width for part in range(parts)) * blocks
    assert (tmp_path / "read").read_bytes()[:len(expected)] == expected


def test_what_fua_has_promised_outlives_a_kill(pair, tmp_path):
    """The server is killed before its client ends, which flushes then."""
    with served(pair, tmp_path, "flush_delay_ms=60000", killed=True) as (uri, server):
        client = subprocess.Popen([tool("qemu-io", "qemu-utils"), *QEMU_IO, uri], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        client.stdin.write("write -P 9 -f 8192 4096\n")
        client.stdin.flush()
        while "ops; " not in client.stdout.readline():
            assert client.poll() is None
        server.kill()
        server.wait()
        client.kill()
        client.communicate()
    assert content(pair)[8192:12288] == b"\x09" * 4096


def test_what_a_flush_has_promised_outlives_a_kill(pair, tmp_path):
    """The one that is asked for, or that of qemu-io's end."""
    with served(pair, tmp_path, "flush_delay_ms=60000", killed=True) as (uri, server):
        good(tool("qemu-io", "qemu-utils"), *QEMU_IO, "-c", "write -P 9 8192 4096", "-c", "flush", uri)
        server.kill()
        server.wait()
    assert content(pair)[8192:12288] == b"\x09" * 4096


def test_drain_at_the_end(pair, tmp_path):
    with served(pair, tmp_path, "drain=1") as (uri, _):
        good(tool("qemu-io", "qemu-utils"), *QEMU_IO, "-c", "write -P 5 0 1m", uri)
    assert pair.backing_path.read_bytes()[:1 << 20] == b"\x05" * (1 << 20)


def test_read_only(pair, tmp_path):
    with served(pair, tmp_path) as (uri, _):
        good(tool("qemu-io", "qemu-utils"), *QEMU_IO, "-c", "write -P 5 0 64k", uri)
    before = [file_state(path) for path in (pair.cache_path, pair.backing_path)]
    with served(pair, tmp_path, "readonly=1") as (uri, _):
        assert json.loads(good("nbdinfo", "--json", uri))["exports"][0]["is_read_only"]
        good("qemu-io", "-r", "-f", "raw", "-c", "read -P 5 0 64k", uri)
    assert before == [file_state(path) for path in (pair.cache_path, pair.backing_path)]


@pytest.mark.parametrize("options, line", [
    (["gc_percent=99"], "gc_percent=99: expected a number from 0 to 90"),
    (["nothing=1"], "nothing=1: there is no such option"),
    (["cache_size=1m"], "cache_size"),
])
def test_bad_options_are_refused_in_a_line(pair, options, line):
    before = file_state(pair.backing_path)
    done = subprocess.run([*map(str, command(pair, *options)), "--unix", "-", "--run", "true"], capture_output=True,
                          text=True, check=False, timeout=60)
    assert done.returncode != 0 and line in done.stderr, done.stderr
    assert before == file_state(pair.backing_path)


@pytest.mark.parametrize("left_out", ["cache_dev=", "backing="])
def test_what_is_missing_is_said(pair, left_out):
    words = [str(word) for word in command(pair) if not str(word).startswith(left_out)]
    done = subprocess.run([*words, "--run", "true"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0 and f"{left_out} is missing" in done.stderr


def test_two_servers_of_one_cache(pair, tmp_path):
    with served(pair, tmp_path):
        done = subprocess.run([*map(str, command(pair)), "--unix", tmp_path / "other"], capture_output=True, text=True,
                              check=False, timeout=60)
    assert done.returncode != 0 and "in use" in done.stderr


def test_its_help_has_every_option():
    said = good("nbdkit", PLUGIN, "--help")
    for line in good(FIO, f"--enghelp={BUILD}/lib/libpcache_fio.so").splitlines():
        name = line.split(":")[0].strip()
        if ":" in line and name.isidentifier() and not name.startswith("stats_") and "delete it" not in line:
            assert f"{name}=" in said, name
    assert "backing=<PATH>" in said


def test_probes_and_idle_connections(pair, tmp_path):
    """Ten that ask and go, and ten that stay and ask nothing."""
    with served(pair, tmp_path) as (uri, server):
        idle = [subprocess.Popen(["qemu-io", *QEMU_IO, uri], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
                for _ in range(10)]
        for _ in range(10):
            good("nbdinfo", "--size", uri)
        good("qemu-io", *QEMU_IO, "-c", "write -P 3 0 4k", "-c", "read -P 3 0 4k", uri)
        for one in idle:
            one.communicate(b"q\n", timeout=60)
        assert server.poll() is None
        assert len(os.listdir(f"/proc/{server.pid}/fd")) < 64
