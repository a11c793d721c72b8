# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl of a cache with two sides: which are there, which is away and since when, what is behind; clients of
pcached's socket that do as they like."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

from ctl import Ctl
from measure.libpcache import MIB
from support import stamp, wait_until
from test_doorbell import bells
from test_two_sides import sides  # noqa: F401  pylint: disable=unused-import


def status(sides):
    return Ctl().json("status", sides.cache_path)


def text(sides):
    return Ctl().run("status", sides.cache_path).stdout


def socket_of_backend():
    folder = pathlib.Path(os.environ["PCACHE_RUNTIME_DIR"])
    found = list(folder.glob("*.backend.sock"))
    assert len(found) == 1
    return found[0]


def test_both_are_shown(sides):
    sides.start_backend()
    with sides.front(writeback_interval_ms=3600000) as cache:
        listed = Ctl().json("list")["attached"]
        assert [one.get("side") for one in listed] == ["backend", None]
        assert {one["pid"] for one in listed} == {sides.backend.pid, os.getpid()}
        assert ", backend" in Ctl().run("list").stdout
        wait_until(lambda: status(sides)["sides"]["backend_heard"])
        wait_until(lambda: status(sides)["backend"]["state"]["doing"] == "waits until the front wants it")
        cache.write(0, stamp(0, MIB, 1))
        cache.flush()
        both = status(sides)
        assert both["attached"]["pid"] == os.getpid() and both["sides"]["role"] == "front"
        assert both["backend"]["attached"]["pid"] == sides.backend.pid
        assert both["sides"]["backend_there"] and both["backend"]["front"]["there"]
        assert both["backend"]["dirty"] == {"ksets": both["dirty"]["ksets"], "bytes": MIB, "is_all": True}
        wait_until(lambda: status(sides)["backend"]["front_hints"]["used_segments"] == both["segments"]["used"])
        assert status(sides)["backend"]["front_hints"]["pid"] == os.getpid()
        shown = text(sides)
        assert f"backend:   pcached (pid {sides.backend.pid}), disk {sides.disk}" in shown
        assert f"behind:    1 MiB in {both['dirty']['ksets']} ksets behind dirty_tail" in shown
        assert "writeback: waits until the front wants it for" in shown
    sides.stop_backend()


def test_a_backend_alone(sides):
    sides.start_backend()
    alone = status(sides)
    assert alone["attached"]["side"] == "backend" and not alone["front"]["there"]
    assert "front:     away for" in text(sides)
    for command in ("flush", "drain", "metrics"):
        assert "backend" in Ctl().refused(command, sides.cache_path)
    for option in ("--line", "--watch"):
        assert "only its backend is there" in Ctl().refused("status", sides.cache_path, option)
    assert "backend" in Ctl().refused("set", sides.cache_path, "gc_percent", 50)
    assert str(sides.cache_path) not in Ctl().run("metrics").stdout
    path = socket_of_backend()
    sides.stop_backend()
    assert not path.exists() and Ctl().json("status", sides.cache_path)["attaches"]


FRONT = """\
import sys
sys.path[:0] = sys.argv[1].split(":")
from measure.libpcache import Cache
cache = Cache(sys.argv[2], sys.argv[3], role="front")
print("attached", flush=True)
sys.stdin.read()
"""


def test_who_is_away_and_since_when(sides):
    sides.start_backend()
    with sides.front():
        wait_until(lambda: status(sides)["sides"]["backend_heard"])
        sides.stop_backend(signal.SIGKILL)
        away = status(sides)
        assert not away["sides"]["backend_there"] and "backend" not in away
        assert "backend:   away, heard last" in text(sides)
        sides.start_backend()  # over what is left of the killed one
        wait_until(lambda: "backend" in status(sides))
    front = subprocess.Popen([sys.executable, "-B", "-c", FRONT, ":".join(p for p in sys.path if p), sides.cache_path,
                              sides.server.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert front.stdout.readline() == "attached\n"
    wait_until(lambda: status(sides)["backend"]["front"]["heard"])
    front.kill()
    front.communicate()
    wait_until(lambda: not status(sides)["front"]["there"])
    shown = text(sides)
    assert "front:     away for" in shown and "heard last" in shown
    sides.stop_backend()


def test_garbage_in_the_page_is_shown_as_it_may_be(sides):
    sides.start_backend()
    wait_until(bells)
    with sides.front():
        bells()[0].write_bytes(os.urandom(4096))
        both = status(sides)
        assert both["sides"]["backend_there"] and both["backend"]["front"]["there"]
        text(sides)
    bells()[0].write_bytes(b"\xff" * 4096)
    text(sides)
    sides.stop_backend()


def test_clients_that_do_as_they_like(sides):
    sides.start_backend()
    path = socket_of_backend()
    assert oct(path.stat().st_mode)[-3:] == "600"

    def connect():
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        client.settimeout(60)
        return client

    idle = [connect() for _ in range(80)]
    for sent in (b"\n", b"\0\xff\n", b"status status\n", b"drain\n", b"set a b\n", b"x" * 5000):
        with connect() as client:
            client.sendall(sent)
            assert client.recv(4096).startswith(b"error ")
    half = connect()
    half.sendall(b"stat")
    deaf = connect()
    for _ in range(20):
        deaf.sendall(b"status\n")
    with connect() as client:
        client.sendall(b"status\n")
        head, _, rest = client.recv(65536).partition(b"\n")
        while len(rest) < int(head.split()[1]):
            rest += client.recv(65536)
        assert head.startswith(b"ok ") and json.loads(rest)["front"]["there"] is False
    with sides.front(writeback_interval_ms=200) as cache:
        cache.write(0, stamp(0, MIB, 1))
        cache.flush()
        wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
    for client in (*idle, half, deaf):
        client.close()
    sides.stop_backend()
