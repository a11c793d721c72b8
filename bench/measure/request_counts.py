# SPDX-License-Identifier: GPL-2.0-or-later
"""What a request costs, counted: instructions (valgrind's callgrind), system calls (strace), flushes, fences and
allocations (pcache-microbench). The same on every run, whatever else the machine does.

Each is the difference of two runs with different numbers of requests: starting, filling and ending cost the same in
both and go away.
"""
import concurrent.futures
import json
import os
import re

from . import processes
from .errors import MeasureError
from .progress import Progress
from .scratch import new_folder

FEW, MANY = 2048, 6144
MOST_SECONDS = 600  # of one program; valgrind takes some seconds


def _run(command):
    done = processes.run(command, timeout_s=MOST_SECONDS)
    if done.returncode != 0:
        raise MeasureError(f"{processes.name_of(command)}: " + (done.stderr.strip() or "failed").splitlines()[-1])
    return done


def _case(program, name, n, persist="flushcache"):
    return [program, f"--count={name}", f"--operations={n}", f"--persist={persist}"]


def _file_for(folder, tool, name, n):
    """Of this run alone, among all that run at once."""
    return folder / f"{tool}-{re.sub('[^a-z0-9]', '-', name)}-{n}"


def _instructions(program, name, n, folder):
    out = _file_for(folder, "callgrind", name, n)
    done = _run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *_case(program, name, n)])
    return int(re.search(r"Collected : (\d+)", done.stderr)[1])


def _system_calls(program, name, n, folder):
    out = _file_for(folder, "strace", name, n)
    _run(["strace", "-f", "-c", "-o", out, *_case(program, name, n)])
    return int(out.read_text().splitlines()[-1].split()[3])


def _counted(what):
    """By the program itself."""
    return lambda program, name, n, _: json.loads(_run(_case(program, name, n, "counted")).stdout)[what]


def names(program):
    return [n for n in _run([program, "--list_counts"]).stdout.split() if "65536" not in n]


def count(program, name, folder):
    """{what: per request}; the tools' files go to the folder."""
    def per_request(of):
        few, many = of(program, name, FEW, folder), of(program, name, MANY, folder)
        return (many - few) / (MANY - FEW)
    return {"instructions": round(per_request(_instructions), 1),
            "flushes": round(per_request(_counted("flushes")), 3),
            "fences": round(per_request(_counted("fences")), 3),
            "allocations": round(per_request(_counted("allocations")), 3),
            "system_calls": round(per_request(_system_calls), 3)}


def _result(future):
    while True:
        try:
            return future.result(processes.HEARD_S)
        except concurrent.futures.TimeoutError:
            processes.raise_if_told()


def count_all(program, only, quiet=False):
    """{request: {what: per request}}, of those whose names `only` finds; none may be left."""
    chosen = [name for name in names(program) if only.search(name)]
    progress = Progress("gate: requests counted:", len(chosen), quiet)

    def counted_one(future):
        found = _result(future)
        progress.step()
        return found

    with new_folder("pcache-counts-") as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            counted = {name: pool.submit(count, program, name, folder) for name in chosen}
            return {name: counted_one(future) for name, future in counted.items()}
        except BaseException:  # the pool waits for those that run
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end_all()
            raise


def compiler(program):
    """What the instructions depend on besides the sources."""
    done = processes.run(["readelf", "-p", ".comment", program], timeout_s=MOST_SECONDS)
    found = re.findall(r"GCC: .*|clang version .*", done.stdout)
    return sorted(set(found))[0].strip() if found else "unknown"
