# SPDX-License-Identifier: GPL-2.0-or-later
"""The one runner of fio: jobs in, fio's own figures out."""
import json
import shutil

from . import processes
from .errors import MeasureError

MOST_SECONDS = 3600  # of one fio; the longest job here takes minutes


def require(build, *engines):
    """MeasureError: fio, or an engine of the build, is not there."""
    if not shutil.which("fio"):
        raise MeasureError("fio is missing: run scripts/setup")
    for engine in engines:
        if not (path := build / "lib" / f"libpcache_{engine}.so").exists():
            raise MeasureError(f"{path}: build it, or set PCACHE_BUILD")
        if any(cut in str(path) for cut in "#;"):
            raise MeasureError(f"{path}: fio cuts a path at # and ;: give the build by another, such as a symbolic "
                               "link, in PCACHE_BUILD")


def run_jobs(folder, common, *jobs):
    """Runs the jobs, dicts of fio's options, in one process at a time, in the folder; {name: fio's JSON of the job}."""
    command = ["fio", "--output-format=json"]
    for job in jobs:
        options = {**common, **job}
        command += [f"--name={options.pop('name', 'job')}", f"--ioengine={options.pop('ioengine')}"]
        command += [f"--{key}={value}" for key, value in options.items()]
    done = processes.run(command, cwd=folder, timeout_s=MOST_SECONDS)
    if done.returncode != 0:
        said = _one_line(done.stderr) or _one_line(done.stdout) or f"exit status {done.returncode}"
        raise MeasureError(f"fio: {said}")
    out = done.stdout
    found = {job["jobname"]: job for job in json.loads(out[out.index("{"):], strict=False)["jobs"]}
    assert all(job["error"] == 0 for job in found.values())
    return found


def iops(job):
    return not_zero(job, job["read"]["iops"] + job["write"]["iops"])


def cpu_each(job):
    """CPU time of a request, in a unit of which only the ratio is taken."""
    return not_zero(job, job["usr_cpu"] + job["sys_cpu"]) / iops(job)


def not_zero(job, found):
    if found == 0:
        raise MeasureError(f"fio: job {job['jobname']}: too short for what it measures with")
    return found


def _one_line(text):
    """What fio has said, without the cache's warning that its pmem is emulated."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip() and "emulated pmem" not in line)
