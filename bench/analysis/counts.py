# SPDX-License-Identifier: GPL-2.0-or-later
"""What a request costs, counted: instructions (valgrind's callgrind), system calls (strace), flushes, fences and
allocations (pcache-microbench). The same on every run, whatever else the machine does.

Each is the difference of two runs with different numbers of requests: starting, filling and ending cost the same in
both and go away.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import tempfile

from children import HEARD_S, end_captured, raise_if_told, run_captured
from results import Wrong

FEW, MANY = 2048, 6144


def _run(command):
    done = run_captured(list(map(str, command)))
    if done.returncode != 0:
        raise Wrong(f"{pathlib.Path(command[0]).name}: " + (done.stderr.strip() or "failed").splitlines()[-1])
    return done


def _case(program, name, n, persist="flushcache"):
    return [program, f"--count={name}", f"--operations={n}", f"--persist={persist}"]


def _instructions(program, name, n):
    with tempfile.TemporaryDirectory(prefix="pcache-counts-") as folder:
        done = _run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", *_case(program, name, n)])
    return int(re.search(r"Collected : (\d+)", done.stderr)[1])


def _system_calls(program, name, n):
    with tempfile.TemporaryDirectory(prefix="pcache-counts-") as folder:
        _run(["strace", "-f", "-c", "-o", f"{folder}/out", *_case(program, name, n)])
        return int(pathlib.Path(folder, "out").read_text().splitlines()[-1].split()[3])


def names(program):
    return [n for n in _run([program, "--list_counts"]).stdout.split() if "65536" not in n]


def count(program, name):
    """{what: per request}."""
    def per_request(of):
        few, many = of(program, name, FEW), of(program, name, MANY)
        return (many - few) / (MANY - FEW)
    def counted(what):
        return lambda program, name, n: json.loads(_run(_case(program, name, n, "counted")).stdout)[what]
    return {"instructions": round(per_request(_instructions), 1),
            "flushes": round(per_request(counted("flushes")), 3), "fences": round(per_request(counted("fences")), 3),
            "allocations": round(per_request(counted("allocations")), 3),
            "system_calls": round(per_request(_system_calls), 3)}


def _result(future):
    while True:
        try:
            return future.result(HEARD_S)
        except concurrent.futures.TimeoutError:
            raise_if_told()


def count_all(program, only):
    """{request: {what: per request}}, of those whose names `only` finds; none may be left."""
    chosen = [name for name in names(program) if only.search(name)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            counted = {name: pool.submit(count, program, name) for name in chosen}
            return {name: _result(future) for name, future in counted.items()}
        except BaseException:  # the pool waits for those that run
            pool.shutdown(wait=False, cancel_futures=True)
            end_captured()
            raise


def compiler(program):
    """What the instructions depend on besides the sources."""
    done = subprocess.run(["readelf", "-p", ".comment", str(program)], capture_output=True, text=True, check=False)
    found = re.findall(r"GCC: .*|clang version .*", done.stdout)
    return sorted(set(found))[0].strip() if found else "unknown"
