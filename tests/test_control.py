# SPDX-License-Identifier: GPL-2.0-or-later
"""A cache that is attached, asked and told by pcachectl over its control socket, whichever program has it."""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as prometheus_families

from ctl import CTL
from fio import environment
from measure.libpcache import FUA, MIB, ROOT, STATUS_FIELDS, PcacheError
from support import read_all, run_by_owner, stamp, wait_until
from test_ctl_usage import NONE_OF_THEM
from test_nbdkit import served

NO_WRITEBACK = {"writeback_interval_ms": 3_600_000}


def sockets(ctl):
    """cache path: what `list` tells of it."""
    return {attached["cache"]: attached for attached in ctl.json("list")["attached"]}


def socket_of(ctl, pair):
    return sockets(ctl)[str(pair.cache_path)]["socket"]


def live(ctl, pair):
    return ctl.json("status", pair.cache_path)


def test_found_by_its_path_while_it_is_attached(ctl, pair):
    with pair.open(**NO_WRITEBACK) as cache:
        cache.write(0, stamp(0, MIB, 1))
        told = sockets(ctl)[str(pair.cache_path)]
        assert (told["pid"], told["backing"], told["readonly"]) == (os.getpid(), str(pair.backing_path), False)
        assert stat.S_IMODE(os.stat(told["socket"]).st_mode) == 0o600
        assert str(pair.cache_path) in ctl.run("list").stdout
        status = live(ctl, pair)
        assert status["attached"]["pid"] == os.getpid() and status["requests"]["writes"] == 1
        assert status["dirty"]["live_bytes"] == MIB
        assert ctl.json("status", told["socket"])["requests"] == status["requests"]
        link = pair.cache_path.with_name("another-name")
        os.link(pair.cache_path, link)
        assert ctl.json("status", link)["attached"]["pid"] == os.getpid()
        link.unlink()
        assert ctl.run("status", pair.cache_path, "--line").stdout.rstrip("\n") == cache.status_line
        text = ctl.run("status", pair.cache_path).stdout
        assert f"(pid {os.getpid()})" in text and "1 MiB" in text and re.search(r"^state: +ok$", text, re.M)
        assert re.search(rf"^pmem: +emulated, persist {cache.status['cache']['persist']}$", text, re.M), text
    assert str(pair.cache_path) not in sockets(ctl) and not os.path.exists(told["socket"])
    assert "attached" not in live(ctl, pair), "of the image, offline"


def test_every_status_field_is_told(ctl, pair):
    with pair.open() as cache:
        status = live(ctl, pair)
        for (group, name) in STATUS_FIELDS:
            assert name in (status[group] if group else status), (group, name)
        assert set(status) - {"attached"} == set(cache.status)


# Option, value, where the status shows it, and as what.
SETTINGS = (("gc_percent", "50", "cache", "gc_percent", 50),
            ("dirty_high_percent", "40", "writeback", "dirty_high_percent", 40),
            ("writeback_rate", "10m", "writeback", "bytes_per_second", 10 * MIB),
            ("seq_cutoff", "64k", "policy", "seq_cutoff", 65536),
            ("read_ahead", "256k", "policy", "read_ahead", 262144),
            ("flush_delay_ms", "20", "log", "flush_delay_ms", 20),
            ("writeback_interval_ms", "700", "writeback", "interval_ms", 700),
            ("drain", "1", "writeback", "drain", True),
            ("cache_mode", "writearound", "cache", "mode", "writearound"),
            ("policy", "fifo", "policy", "rule", "fifo"),
            ("policy", "adaptive", "policy", "kind", "adaptive"),
            ("backing_order", "relaxed", "writeback", "backing_order", "relaxed"))


def test_options_are_changed_while_it_runs(ctl, pair):
    with pair.open(gc_percent=70) as cache:
        for name, value, group, field, shown in SETTINGS:
            assert ctl.run("set", pair.cache_path, name, value).stdout == f"{name}: {value}\n"
            assert cache.status[group][field] == shown
        for name, value, told in (("gc_percent", "91", "91"), ("data_crc", "1", "keeps it"), ("none", "1", "none"),
                                  ("dirty_low_percent", "99", "dirty_high_percent"), ("gc_percent", "", "blanks"),
                                  ("gc_percent", "5 0", "blanks"), ("gc_percent", "5\n0", "blanks")):
            assert told in ctl.refused("set", pair.cache_path, name, value)
        status = cache.status
        for _, _, group, field, shown in SETTINGS:
            assert (group, field) == ("policy", "rule") or status[group][field] == shown
    with pair.open() as cache:
        assert cache.status["cache"]["gc_percent"] == 50 and cache.status["policy"]["seq_cutoff"] == 0


@pytest.mark.parametrize("attached", ["fifo", "second_chance", "adaptive"])
def test_any_policy_follows_any_other(ctl, pair, attached):
    with pair.open(policy=attached) as cache:
        for asked in ("second_chance", "adaptive", "fifo", "adaptive", attached):
            ctl.run("set", pair.cache_path, "policy", asked)
            assert cache.status["policy"]["kind"] == asked
            cache.write(0, stamp(0, 2 * MIB, 1))
            assert cache.read(0, 2 * MIB) == stamp(0, 2 * MIB, 1)
    with pair.open(readonly=1, policy=attached) as cache:
        assert "readonly" in ctl.refused("set", pair.cache_path, "policy", "adaptive")
        assert cache.status["policy"]["kind"] == "fifo"


def test_drained_and_flushed(ctl, pair):
    with pair.open(**NO_WRITEBACK) as cache:
        cache.write(0, stamp(0, 2 * MIB, 1))
        assert live(ctl, pair)["log"]["open_keys"] > 0
        assert ctl.run("flush", pair.cache_path).stdout == "flushed\n"
        status = live(ctl, pair)
        assert status["log"]["open_keys"] == 0 and status["dirty"]["live_bytes"] == 2 * MIB
        assert ctl.run("drain", pair.cache_path).stdout.startswith("drained")
        assert live(ctl, pair)["dirty"]["live_bytes"] == 0
        with open(pair.backing_path, "rb") as device:
            assert device.read(2 * MIB) == stamp(0, 2 * MIB, 1)


@pytest.mark.parametrize("ends", ["asker", "cache"])
def test_a_drain_that_is_interrupted_leaves_the_rest_dirty(ctl, pair, ends):
    """Who asked for the drain goes, and so does the drain; and closing does not wait for it."""
    blocks = 12288  # a write, an epoch and a flush of the device each: it takes some time
    with pair.open(**NO_WRITEBACK) as cache:
        for at in range(blocks):
            cache.write(at % 4096 * 4096, stamp(at % 4096 * 4096, 4096, at // 4096), flags=FUA)
        asker = subprocess.Popen([CTL, "drain", pair.cache_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True)
        wait_until(lambda: cache.status["writeback"]["written_in_drain_bytes"] > 0)
        if ends == "asker":
            asker.terminate()
            asker.communicate(timeout=60)
            written = -1
            while written != (written := cache.status["writeback"]["written_in_drain_bytes"]):
                time.sleep(0.2)
            assert asker.returncode == -signal.SIGTERM and 0 < written < blocks * 4096
            assert live(ctl, pair)["dirty"]["ksets"] > 0
        else:
            cache.close()
            told = asker.communicate(timeout=60)[1]
            assert asker.returncode == 3 and re.fullmatch("pcachectl: .*closed by the process.*\n", told), told
    with pair.open(**NO_WRITEBACK) as cache:
        assert cache.status["dirty"]["ksets"] > 0
        assert read_all(cache) == b"".join(stamp(at * 4096, 4096, 2) for at in range(4096))


def test_what_is_counted_begins_anew(ctl, pair):
    with pair.open(**NO_WRITEBACK) as cache:
        for at in range(200):
            cache.write(at * 4096, stamp(at * 4096, 4096, 1))
        before = live(ctl, pair)
        assert before["requests"]["writes"] == 200 and before["latency"]["write"]["count"] > 0
        ctl.run("stats", "reset", pair.cache_path)
        after = live(ctl, pair)
        assert after["requests"]["writes"] == 0 and after["requests"]["write_bytes"] == 0
        assert after["latency"]["write"] == {**after["latency"]["write"], "count": 0, "max_ns": 0, "buckets": []}
        assert after["dirty"] == before["dirty"], "what is so, and no count, stays"
        assert after["time"]["counted_since_unix_ms"] > after["time"]["attached_unix_ms"]
        assert before["time"]["counted_since_unix_ms"] == after["time"]["attached_unix_ms"]
        cache.write(0, stamp(0, 4096, 2))
        assert cache.status["requests"]["writes"] == 1, "for the program that has it, too"


def rows_of(text):
    lines = [line.split() for line in text.splitlines()]
    return [dict(zip(lines[0], line)) for line in lines[1:]]


def test_watched(ctl, pair):
    with pair.open(**NO_WRITEBACK) as cache:
        watch = subprocess.Popen([CTL, "status", pair.cache_path, "--watch", "--json"], text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.set_blocking(watch.stdout.fileno(), False)
        lines = []
        while len(lines) < 3:
            for at in range(100):
                cache.write(at * 4096, stamp(0, 4096, 1))
                cache.read(at * 4096, 4096)
            lines += filter(None, [watch.stdout.readline()])
        rows = [json.loads(line) for line in lines]
        assert rows[1]["w/s"] > 0 and rows[1]["r/s"] > 0 and rows[1]["wMiB/s"] > 0 and rows[0]["state"] == "ok"
        assert max(row["hit%"] for row in rows) == 100
        table = ctl.run("status", pair.cache_path, "--watch", "--count", "2").stdout
        rows = rows_of(table)
        assert len(rows) == 2 and rows[0]["state"] == "ok" and float(rows[0]["dirtyMiB"]) == pytest.approx(0.4)
    assert watch.wait(timeout=60) == 0 and "not attached any more" in watch.stderr.read()
    assert "attached" in ctl.refused("status", pair.cache_path, "--watch")
    assert "--watch" in ctl.refused("status", pair.cache_path, "--count", "1")
    assert "--watch" in ctl.refused("status", pair.cache_path, "--line", "--watch")


@pytest.mark.parametrize("option, most", [("--interval", 86400), ("--count", 4294967295)])
def test_watched_by_wrong_numbers(ctl, pair, option, most):
    with pair.open():
        for value in [*NONE_OF_THEM, "0", str(most + 1)]:
            told = ctl.refused("status", pair.cache_path, "--watch", f"{option}={value}")
            assert f"{option}: expected a number from 1 to {most}, found {value}" == told


def samples(text, families=text_string_to_metric_families):
    """(name, labels): value, by a parser of others, which refuses what is no OpenMetrics. None is there twice."""
    found = [((sample.name, frozenset(sample.labels.items())), sample.value)
             for family in families(text) for sample in family.samples]
    assert len(dict(found)) == len(found) and found
    return dict(found)


def test_metrics_can_be_parsed(ctl, pair, golden, shm, disk):
    (disk / "other").mkdir()
    other = golden.copy("c_mixed_crcon", shm, disk / "other")
    with pair.open(**NO_WRITEBACK) as cache, other.open() as second:
        for at in range(1000):
            cache.write(at * 4096, stamp(at * 4096, 4096, 1))
        one = samples(ctl.run("metrics", pair.cache_path, pair.cache_path).stdout)
        label = frozenset({("cache", str(pair.cache_path))})
        assert one["pcache_requests_writes_total", label] == 1000
        assert one["pcache_dirty_live_bytes", label] == 1000 * 4096
        assert one["pcache_writeback_ok", label] == 1 and one["pcache_cache_readonly", label] == 0
        timed = cache.status["latency"]["write"]["count"]
        assert one["pcache_latency_write_seconds_bucket", label | {("le", "+Inf")}] == timed > 0
        info = next(labels for name, labels in one if name == "pcache_info")
        assert ("policy_kind", "adaptive") in info and ("cache_pmem_kind", cache.info.pmem_kind.decode()) in info
        both = samples(ctl.run("metrics", pair.cache_path, other.cache_path).stdout)
        assert both["pcache_segments_total", frozenset({("cache", str(other.cache_path))})] == second.info.segments
        assert samples(ctl.run("metrics").stdout).keys() == both.keys()
        cache.flush()  # which is timed, or not: the buckets are the same
        assert samples(ctl.run("metrics", pair.cache_path).stdout).keys() == one.keys()
        prometheus = samples(ctl.run("metrics", "--format", "prometheus", pair.cache_path).stdout, prometheus_families)
        assert prometheus.keys() == one.keys()
    assert "attached" in ctl.refused("metrics", pair.cache_path)
    assert "openmetrics or prometheus, found x" in ctl.refused("metrics", "--format", "x")


def test_metrics_of_several_readers(ctl, pair):
    pair.open().close()
    with pair.open(readonly=1), pair.open(readonly=1):
        told = samples(ctl.run("metrics").stdout)
        assert len([labels for name, labels in told if name == "pcache_requests_reads_total"]) == 1, "one process"
        with another_process(pair, "readonly=1"):
            told = samples(ctl.run("metrics").stdout)
            assert len([labels for name, labels in told if name == "pcache_requests_reads_total"]) == 2


@pytest.mark.parametrize("words", [["flush"], ["drain"], ["stats", "reset"], ["metrics"], ["status", "--watch"]],
                         ids=" ".join)
def test_what_is_not_attached_cannot_be_asked(ctl, pair, disk, words):
    pair.open().close()
    before = pair.digests()
    for path in (pair.cache_path, disk / "missing", disk):
        command = [words[0], *words[1:2], path] if words[0] == "stats" else [words[0], path, *words[1:]]
        assert str(path) in ctl.refused(*command)
    assert pair.digests() == before


CHILD = f"""
import sys
sys.path[:0] = {[str(ROOT / "bench"), os.path.dirname(__file__)]!r}
from measure.libpcache import Cache
options = dict((word.split("=")[0], int(word.split("=")[1])) for word in sys.argv[3:])
cache = Cache(sys.argv[1], sys.argv[2], **options)
if not options.get("readonly"):
    cache.write(0, bytes(4096))
print("attached", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(pair, *options):
    child = subprocess.Popen([sys.executable, "-B", "-c", CHILD, pair.cache_path, pair.backing_path, *options],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "attached\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def test_a_killed_process_leaves_nothing_in_the_way(ctl, pair):
    with another_process(pair) as child:
        left = socket_of(ctl, pair)
        child.kill()
        child.wait()
    assert os.path.exists(left) and str(pair.cache_path) not in sockets(ctl)
    assert "attached" not in live(ctl, pair)
    ctl.run("set", pair.cache_path, "gc_percent", "60")
    assert "attached" in ctl.refused("drain", pair.cache_path)
    with pair.open():
        assert socket_of(ctl, pair) == left
        assert live(ctl, pair)["attached"]["pid"] == os.getpid()


def test_a_stopped_process_is_said(ctl, pair):
    with another_process(pair) as child:
        child.send_signal(signal.SIGSTOP)
        assert "no answer" in ctl.refused("status", pair.cache_path)
        child.send_signal(signal.SIGCONT)
        assert live(ctl, pair)["attached"]["pid"] == child.pid


def test_where_it_is_asked_for(ctl, pair, disk):
    path = disk / "control"
    with pair.open(control=str(path)):
        assert ctl.json("status", path)["attached"]["cache"] == str(pair.cache_path)
        assert str(pair.cache_path) not in sockets(ctl)
    assert not path.exists()
    with pair.open(control="off") as cache:
        assert "in use" in ctl.refused("status", pair.cache_path)
        assert not cache.log or all("socket" not in line for _level, line in cache.log)


@pytest.mark.parametrize("taken", ["a file", "a folder", "a listener", "too long", "no folder"])
def test_a_path_that_cannot_be_had_is_refused(pair, disk, taken):
    """And nothing is changed, neither of the cache nor of what is there."""
    path = disk / "control"
    with contextlib.ExitStack() as stack:
        if taken == "a file":
            path.write_text("mine")
        elif taken == "a folder":
            path.mkdir()
        elif taken == "a listener":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen()
        else:
            path = disk / ("x" * 120 if taken == "too long" else "none/control")
        before = pair.digests()
        with pytest.raises(PcacheError, match="option control: socket"):
            pair.open(control=str(path))
        assert pair.digests() == before
        if taken == "a listener":
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))


def test_a_refused_attach_leaves_no_socket(ctl, pair, disk):
    with pair.open():
        with pytest.raises(PcacheError):
            pair.open(control=str(disk / "control"))
        assert not (disk / "control").exists() and str(pair.cache_path) in sockets(ctl)
        assert live(ctl, pair)["attached"]["pid"] == os.getpid()


def test_several_readers(ctl, pair):
    pair.open().close()
    with pair.open(readonly=1) as first, pair.open(readonly=1):
        told = [one for one in ctl.json("list")["attached"] if one["cache"] == str(pair.cache_path)]
        assert len({one["socket"] for one in told}) == 2 and all(one["readonly"] for one in told)
        assert live(ctl, pair)["attached"]["readonly"]
        assert "readonly" in ctl.refused("set", pair.cache_path, "gc_percent", "50")
        assert "readonly" in ctl.refused("drain", pair.cache_path)
        ctl.run("flush", pair.cache_path)
        assert first.status["cache"]["readonly"]


def test_only_who_may_connects(ctl, pair):
    """By the modes alone: root's right to pass over them is dropped."""
    with pair.open():
        path = socket_of(ctl, pair)
        os.chmod(path, 0)
        told = run_by_owner("import subprocess, sys\n"
                            "done = subprocess.run(sys.argv[2:], capture_output=True, text=True)\n"
                            "print(done.returncode, done.stderr)", CTL, "status", pair.cache_path)
        assert told.startswith("3 pcachectl: socket ") and "Permission denied" in told
        os.chmod(path, 0o600)
        assert live(ctl, pair)["attached"]["pid"] == os.getpid()


def test_no_runtime_folder_is_no_obstacle(ctl, pair, disk, monkeypatch):
    """The cache is of use without; it is said once."""
    monkeypatch.setenv("PCACHE_RUNTIME_DIR", str(disk / "none" / "such"))
    with pair.open() as cache:
        cache.drain()
        assert len([line for _level, line in cache.log if "no pcachectl finds this cache" in line]) == 1
        assert "in use" in ctl.refused("status", pair.cache_path)
    assert str(disk / "none") in ctl.call("list").stderr


def test_a_row_after_a_reset_begins_there(ctl, pair):
    with pair.open() as cache:
        for at in range(500):
            cache.write(at * 4096, stamp(0, 4096, 1))
        watch = subprocess.Popen([CTL, "status", pair.cache_path, "--watch", "--count", "1", "--interval", "5"],
                                 text=True, stdout=subprocess.PIPE)
        titles = watch.stdout.readline()  # it has asked once, and asks again after 5 s
        ctl.run("stats", "reset", pair.cache_path)
        for at in range(700):
            cache.write(at * 4096, stamp(0, 4096, 1))
        row, = rows_of(titles + watch.communicate(timeout=60)[0])
        assert 100 < float(row["w/s"]) <= 140, "of all 700, though there were 500 before"


def raw(path, *pieces):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.settimeout(60)
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while more := client.recv(65536):
                answer += more
        return answer


def test_hostile_clients(ctl, pair):
    """Garbage, halves, too much, too many: an error each, and no harm to requests or to others."""
    with pair.open(**NO_WRITEBACK) as cache:
        path = socket_of(ctl, pair)
        assert raw(path, b"\0\xff\xfe%s%n\n").startswith(b"error 22 no such command")
        assert raw(path, b"set gc_percent\n").startswith(b"error 22")
        assert raw(path, b"set gc_percent 1 2\n").startswith(b"error 22")
        assert raw(path, b"x" * 1024) == b"error 22 a command has no more than 1023 bytes\n"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw(path, b"x" * 1_000_000)
        assert raw(path, b"info", b"\nlin", b"e\n").count(b"ok ") == 2
        many = [socket.socket(socket.AF_UNIX) for _ in range(500)]
        for client in many:
            client.connect(path)
            client.sendall(b"status\nstat")
        cache.write(0, stamp(0, MIB, 1))
        cache.flush()
        assert cache.read(0, MIB) == stamp(0, MIB, 1)
        assert live(ctl, pair)["requests"]["writes"] == 1
        for client in many:
            client.close()
        assert live(ctl, pair)["requests"]["errors"] == 0


def test_by_fio(ctl, pair, fio, disk):
    command = fio.command(control=disk / "control", rw="randwrite", bs="4k", size="16m", time_based=1, runtime="60")
    job = subprocess.Popen(list(map(str, command)), cwd=disk, env=environment(), stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)
    try:
        wait_until(lambda: (disk / "control").exists() and
                   ctl.json("status", disk / "control")["requests"]["writes"] > 0)
        assert ctl.json("status", disk / "control")["attached"]["program"] == "fio"
    finally:
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=60)
    assert not (disk / "control").exists()


def test_by_nbdkit(ctl, pair, tmp_path):
    with served(pair, tmp_path, f"control={tmp_path / 'control'}"):
        assert ctl.json("status", tmp_path / "control")["attached"]["program"] == "nbdkit"
    with served(pair, tmp_path, "control=off"):
        assert str(pair.cache_path) not in sockets(ctl)
