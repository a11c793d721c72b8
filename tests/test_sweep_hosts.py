# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep over hosts: fio's servers in network namespaces of this machine, which the tests make. Each host has its
own name, network and files, at the same paths. No packet leaves the machine."""

import contextlib
import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from support import wait_until
from test_sweep import HEAD, SWEEP, lines_of, run, write

HOSTS = ["node1", "node2", "node3"]
SECONDS = 900  # after which the network is gone, whatever became of the tests
NETWORK = """\
set -e
mount -t tmpfs tmpfs /run
mount --bind "$1/hosts" /etc/hosts
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
ip address add 10.99.0.254/24 dev br0
number=0
for host in node1 node2 node3; do
  number=$((number + 1))
  ip netns add $host
  ip link add $host type veth peer name eth0 netns $host
  ip link set $host master br0 up
  ip -n $host address add 10.99.0.$number/24 dev eth0
  ip -n $host link set eth0 up
  ip -n $host link set lo up
done
echo ready
exec sleep "$2"
"""
SERVER = """\
exec ip netns exec "$1" unshare --uts --mount sh -c '
  hostname "$1" && mount --bind "$2/$1" "$2/here" && mount --bind "$3/$1" "$3/here" && exec fio --server
' sh "$1" "{memory}" "{disk}"
"""
SMALL = HEAD.replace("1s", "200ms") + """\
title: Three hosts
hosts: [node1, node2, node3]
common: {cache_size: 512m, working_set: 0.02}
matrix:
  - engine: [pcache, bound]
    rw: [randwrite, randread]
  - engine: uring
  - engine: pcache
    fsync: 4
"""
LONG = HEAD.replace("1s", "600s") + "matrix: {engine: uring, cache_size: 512m, working_set: 0.02}\n"


class Network:
    """Three hosts behind a bridge, and this machine, as pcache-sweep stands in it, on that bridge."""

    def __init__(self, disk, memory):
        self.disk, self.memory = disk, memory
        for host in [*HOSTS, "here"]:
            (disk / host).mkdir()
            (memory / host).mkdir()
        write(disk, "127.0.0.1 localhost\n" + "".join(f"10.99.0.{i} {h}\n" for i, h in enumerate(HOSTS, 1)), "hosts")
        write(disk, NETWORK, "network.sh")
        write(disk, SERVER.format(memory=memory, disk=disk), "server.sh")
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", disk / "network.sh", disk, str(SECONDS)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        if self._holder.stdout.readline() != "ready\n":
            pytest.skip(f"cannot make network namespaces here: {self._holder.communicate()[1].strip()}")
        self._inside = ["nsenter", f"--target={self._holder.pid}", "--net", "--mount", "--"]
        self.server = f"sh {disk}/server.sh {{host}}"
        self.places = ["--cache-dir", memory / "here", "--backing-dir", disk / "here"]

    def start(self, *command):
        return subprocess.Popen([*self._inside, *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, start_new_session=True)

    def run(self, *arguments, ok=0):
        process = self.start(SWEEP, *arguments)
        try:
            said = process.communicate(timeout=300)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == ok, said
        return subprocess.CompletedProcess(arguments, process.returncode, *said)

    @contextlib.contextmanager
    def servers(self, *hosts):
        """That the user has started; {host: process}."""
        started = {host: self.start("sh", self.disk / "server.sh", host) for host in hosts}
        try:
            for host in hosts:
                wait_until(lambda host=host: self.listens(host))
            yield started
        finally:
            for process in started.values():
                end_group(process)

    def listens(self, host):
        return subprocess.run([*self._inside, "ip", "netns", "exec", host, "sh", "-c", "grep -q :223D /proc/net/tcp"],
                              check=False).returncode == 0

    def files(self):
        """That the hosts have."""
        return [p for folder in (self.disk, self.memory) for host in HOSTS for p in (folder / host).iterdir()]

    def close(self):
        self._holder.kill()
        self._holder.communicate()


def end_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def network(tmp_path_factory, shm_parent):
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    memory = pathlib.Path(tempfile.mkdtemp(prefix=f"pcache-test-{os.getpid()}-", dir=shm_parent))
    made = Network(tmp_path_factory.mktemp("hosts"), memory)
    yield made
    made.close()
    shutil.rmtree(memory, ignore_errors=True)


@pytest.fixture(scope="module")
def three(network):
    """A finished run over three hosts, whose servers pcache-sweep has started."""
    folder = network.disk / "three"
    network.run("run", write(network.disk, SMALL), "--output", folder, "--server", network.server, *network.places,
                "--repeats", 2)
    return folder


def test_a_sweep_over_three_hosts_keeps_each_and_their_sum(network, three):
    results = lines_of(three)
    assert len(results) == 12 and all(r["ok"] for r in results), results
    flushed = []
    for result in results:
        metrics = result["metrics"]
        assert list(metrics["hosts"]) == HOSTS
        own = list(metrics["hosts"].values())
        assert all(one["iops"] > 0 for one in own)
        assert metrics["iops"] == pytest.approx(sum(one["iops"] for one in own))
        assert metrics["bytes_per_s"] == pytest.approx(sum(one["bytes_per_s"] for one in own))
        (direction,) = {"read", "write"} & metrics.keys()
        assert metrics[direction]["ios"] == sum(one[direction]["ios"] for one in own)
        for name in ("max", "p50", "p99"):
            assert metrics[direction]["lat_ns"][name] == max(one[direction]["lat_ns"][name] for one in own)
        assert metrics[direction]["lat_ns"]["min"] == min(one[direction]["lat_ns"]["min"] for one in own)
        if "flush" in metrics:
            flushed.append(metrics["flush"]["ios"])
            assert metrics["flush"]["ios"] == sum(one["flush"]["ios"] for one in own)
            assert metrics["flush"]["lat_ns"]["max"] == max(one["flush"]["lat_ns"]["max"] for one in own)
        raw = three / "raw" / f"{result['number']:05}"
        assert raw.with_suffix(".csv").read_text().count("\n") > 1
        text = raw.with_suffix(".json").read_text()
        assert not text.startswith("{"), "text stands before what fio's client has in JSON"
        fio = json.loads(text[text.index("\n{\n"):])
        for host, one in metrics["hosts"].items():
            (entry,) = [e for e in fio["client_stats"] if e["jobname"] == "measure" and e["hostname"] == host]
            assert one["iops"] == pytest.approx(entry["iops"] if "iops" in entry else entry[direction]["iops"])
    assert len(flushed) == 2 and all(flushed), "of the case with fsync alone"
    assert not list((three / "raw").glob("*_iops*"))
    info = json.loads((three / "run.json").read_text())
    assert [host["name"] for host in info["hosts"]] == HOSTS == [host["node"] for host in info["hosts"]]
    for host in info["hosts"]:
        low, high = host["clock_ahead_ms"]
        assert low <= 0 <= high and host["fio"].startswith("fio-"), "they have this machine's clock"
    assert "commit" not in info["builds"][0], "which build the hosts have is not known"
    assert not network.files(), "scratch files are gone"


def test_the_bound_says_what_the_engine_said_on_its_stderr(three):
    said = "".join(p.read_text() for p in (three / "raw").glob("*.err"))
    for host in HOSTS:
        assert f"{host}: pcache: " in said


def test_a_sweep_over_three_hosts_ends_in_one_report(network, three):
    page = pathlib.Path(run("report", three, "--output", network.disk / "report").stdout.strip())
    assert page.exists() and "<h3>Hosts</h3>" in page.read_text()
    with open(page.parent / "x-hosts.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["host"] for row in rows] == [*HOSTS, "sum"] * 6
    for first in range(0, len(rows), 4):
        assert len({row["case"] for row in rows[first:first + 4]}) == 1 and {row["n"] for row in rows} == {"2"}
        speeds = [float(row["requests/s"].replace(",", "")) for row in rows[first:first + 4]]
        assert max(speeds[:3]) < speeds[3] and all(row["p99 µs"] for row in rows)
    with open(page.parent / "x-host-facts.csv", encoding="utf-8") as file:
        assert [row["calls itself"] for row in csv.DictReader(file)] == HOSTS


def test_results_of_hosts_are_compared_with_those_of_the_same_hosts_alone(network, three):
    done = run("compare", three, three, ok=3)
    assert "cannot tell: fewer than 9 rounds have both" in done.stdout
    other = network.disk / "two"
    shutil.copytree(three, other)
    info = json.loads((three / "run.json").read_text())
    info["hosts"] = info["hosts"][:2]
    (other / "run.json").write_text(json.dumps(info))
    done = run("compare", three, other, ok=2)
    assert "two: is of the hosts node1, node2" in done.stderr and "expected results of the same machines" in done.stderr
    del info["hosts"]
    (other / "run.json").write_text(json.dumps(info))
    assert "two: is of one machine" in run("compare", three, other, ok=2).stderr


@pytest.mark.parametrize("lines, line, says", [
    ("hosts: []", 4, "hosts: an empty list: expected a host"),
    ("hosts: [node1:8765]", 4, "hosts: `node1:8765`: expected a host as fio's --client takes it: NAME, NAME,PORT or"),
    ("hosts: [a, 'a,9000']", 4, "hosts: `a,9000` is there twice; expected one server of each host"),
    ("hosts: ['a,70000']", 4, "hosts: `a,70000`: expected a host"),
    ("hosts: {a: b}", 4, "expected a host or a list of hosts"),
    ("server: [a]", 4, "expected a command"),
])
def test_wrong_hosts_of_a_file_are_an_error_that_names_the_line(tmp_path, lines, line, says):
    spec = write(tmp_path, HEAD + lines + "\nmatrix: {bs: 4k}\n")
    done = run("run", spec, "--dry-run", ok=2)
    assert done.stderr.startswith(f"pcache-sweep: {spec}:{line}: ") and says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments, says", [
    (["--host", "-x"], "host -x: expected a host as fio's --client takes it"),
    (["--host", "a", "--host", "a"], "host a: is there twice; expected one server of each host"),
    (["--server", "ssh {host} fio --server"], "there are no hosts; --host names one"),
    (["--host", "a", "--server", "fio --server"], "expected a command with {host} in it"),
    (["--host", "a", "--build", "build"], "--build build: is a path on the hosts; expected one that begins with /"),
    (["--host", "a", "--cache-dir", "shm"], "shm: is a path on the hosts; expected one that begins with /"),
    (["--host", "a", "--cache-dev", "/mnt/pmem/cache"], "its content will be lost on each host; --overwrite"),
    (["--host", "a", "--backing", "/dev/sdb"], "its content will be lost on each host; --overwrite"),
    (["--host", "a", "--overwrite", "--cache-dev", "/dev/dax0.0"], "fio cannot blank a devdax device of another host"),
    (["--host", "a", "--overwrite", "--cache-dev", "/x", "--backing", "/x"], "/x: is the cache device, too"),
])
def test_what_hosts_cannot_do_is_refused_before_they_are_asked(tmp_path, arguments, says):
    spec = write(tmp_path, HEAD + "matrix: {bs: 4k}\n")
    done = run("run", spec, "--output", tmp_path / "run", *arguments, ok=2)
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_trace_is_not_replayed_on_hosts(tmp_path):
    write(tmp_path, "W 0 4096\n", "a.trace")
    spec = write(tmp_path, "name: x\nrepeats: 1\nmatrix: {trace: a.trace}\n")
    done = run("run", spec, "--host", "a", ok=2)
    assert "trace: a.trace: a trace is replayed on this machine alone; leave out the hosts" in done.stderr


def test_a_host_without_a_server_is_named_before_anything_is_made(network, tmp_path):
    spec = write(tmp_path, LONG)
    done = network.run("run", spec, "--output", tmp_path / "run", "--host", "node1", *network.places, ok=2)
    assert "node1: no fio server answers (Connection refused); fio --server runs one" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()
    done = network.run("run", spec, "--output", tmp_path / "run", "--host", "node9", *network.places, ok=2)
    assert "node9: fio: failed to resolve <node9>" in done.stderr and len(done.stderr.splitlines()) == 1
    done = network.run("run", spec, "--output", tmp_path / "run", "--host", "node1", "--server", "ls /nowhere/{host}",
                       *network.places, ok=2)
    assert "node1: the command that runs its fio server has ended: ls: cannot access '/nowhere/node1'" in done.stderr


def test_a_host_that_dies_fails_its_case_and_says_so(network, tmp_path):
    spec, out = write(tmp_path, LONG.replace("600s", "15s")), tmp_path / "run"
    hosts = [f"--host={host}" for host in HOSTS]
    with network.servers(*HOSTS) as servers:
        process = network.start(SWEEP, "run", spec, "--output", out, *hosts, *network.places)
        try:
            wait_until((out / "raw" / "00000.fio").exists)
            wait_until(lambda: any(p.stat().st_mtime_ns > (out / "raw" / "00000.fio").stat().st_mtime_ns
                                   for p in (network.disk / "node2").iterdir()))
            end_group(servers["node2"])
            said = process.communicate(timeout=120)
        finally:
            end_group(process)
    assert process.returncode == 1, said
    (result,) = lines_of(out)
    assert not result["ok"] and "node2: has died, or the connection to it was lost" in result["error"]
    assert result["error"] in said[1]
    left = network.files()
    assert {path.parent.name for path in left} == {"node2"} and all("pcache-sweep-" in path.name for path in left)
    for path in left:
        path.unlink()


def test_an_engines_refusal_on_a_host_reaches_the_user(network, tmp_path):
    """Of files that are no pmem, at paths that the user gives."""
    for host in HOSTS:
        for folder, name, size in ((network.memory, "cache", 512 << 20), (network.disk, "backing", 16 << 20)):
            (folder / host / name).write_bytes(b"")
            os.truncate(folder / host / name, size)
    spec = write(tmp_path, HEAD + "matrix: {engine: bound, cache_size: 512m, working_set: 0.02}\n")
    arguments = ["run", spec, "--overwrite", *(f"--host={host}" for host in HOSTS), "--cache-dev",
                 network.memory / "here" / "cache", "--backing", network.disk / "here" / "backing"]
    try:
        done = network.run(*arguments, "--output", tmp_path / "run", "--server", network.server, ok=1)
        assert "node3: pcache: job" in done.stderr and "emulate_pmem" in done.stderr
        err = "".join(p.read_text() for p in (tmp_path / "run" / "raw").glob("*.err"))
        assert all(f"{host}: pcache: " in err for host in HOSTS)
        with network.servers(*HOSTS):
            done = network.run(*arguments, "--output", tmp_path / "user", ok=1)
        assert "is on the stderr of that fio --server (--server has pcache-sweep start it, and show" in done.stderr
        assert [p.name for p in network.files()] == ["backing"] * 3 + ["cache"] * 3, "what is given stays"
        with network.servers(*HOSTS):
            (network.disk / "node2" / "backing").unlink()
            done = network.run(*arguments, "--output", tmp_path / "missing", ok=2)
        assert "here/backing: expected a file, or a block device of 10m or more, on each host: node2: " in done.stderr
        assert len(done.stderr.splitlines()) == 1 and len(network.files()) == 5, "none is made"
    finally:
        for path in network.files():
            path.unlink()


def test_ctrl_c_ends_the_servers_and_the_run_goes_on_later(network, tmp_path):
    out = tmp_path / "run"
    process = network.start(SWEEP, "run", write(tmp_path, SMALL), "--output", out, "--server", network.server,
                            *network.places)
    try:
        wait_until(lambda: (out / "results.jsonl").exists() and lines_of(out), 120)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    finally:
        end_group(process)
    assert process.returncode == 130 and f"run --resume {out} goes on" in said
    wait_until(lambda: not any(network.listens(host) for host in HOSTS))
    assert not network.files(), "scratch files are gone"
    before = lines_of(out)
    assert 1 <= len(before) < 6
    done = run("run", "--resume", out, "--host", "node1", ok=2)
    assert "--host has no effect with --resume" in done.stderr
    network.run("run", "--resume", out)
    assert lines_of(out)[:len(before)] == before and len(lines_of(out)) == 6 and all(r["ok"] for r in lines_of(out))
