#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Power loss under ext4: each state that pcache_prove leaves of a recording is judged by e2fsprogs, and file by file.

    tests/ext4_crashes.py [--points N] [--seed S] [--data-crc] [--relaxed] [--fua] [--gc-percent N]
                          [--seconds T] [--recording FILE] [--only STATE] [--keep FILE]

build-prove/bin/pcache_prove (scripts/prove makes it; $PCACHE_PROVE names another) replays the recording
(ext4_recording.py) through the cache over simulated media, and takes the power away at N points, in some states each:
of pmem's stores that are not fenced and of the device's sectors that are not flushed some are gone. It attaches what is
left and hands over the logical device. Of that: e2fsck replays the journal, then it finds nothing, and each file has
what the marks that were reached promise. With backing_order=strict the backing device alone is judged, too: e2fsck
finds nothing, and all files together are as some mark had them, the newest or one before it.

Takes no root. Prints a line of JSON about what was tried. The first state that fails ends the run with exit status 1,
and a line that has the command that shows it again. PCACHE_MUTANT: see core/base/MUTANTS.md.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from device_stack import ROOT, Failed
from ext4_recording import holds, promises, read_recording

PROVE = pathlib.Path(os.environ.get("PCACHE_PROVE", ROOT / "build-prove/bin/pcache_prove"))
RECORDING = pathlib.Path(__file__).resolve().parent / "testdata/ext4.recording.zst"
# Of pcache_prove.
OPTIONS = (["--gc-percent=1"], ["--data-crc", "--fua"], ["--relaxed", "--fua", "--gc-percent=1"],
           ["--relaxed", "--data-crc"])


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace", check=False,
                          env=os.environ | {"LC_ALL": "C"})
    return done.returncode, done.stdout + done.stderr


def check(image, orphans=False):
    """Raises Failed: the file system is damaged. Leaves the journal replayed, and `orphans` removed: inodes that were
    being deleted, which the kernel removes when it mounts."""
    status, said = run("e2fsck", "-E", "journal_only", "-y", image)
    if status not in (0, 1):
        raise Failed(f"e2fsck cannot replay the journal: {said}")
    if orphans:
        status, said = run("e2fsck", "-p", image)
        if status not in (0, 1):
            raise Failed(f"e2fsck -p: {said}")
    status, said = run("e2fsck", "-fn", image)
    if status == 0:
        return
    if not orphans and first_orphan(image):
        return check(image, orphans=True)
    raise Failed(f"e2fsck -fn, exit status {status}: {said}")


def first_orphan(image):
    return "First orphan inode" in run("dumpe2fs", "-h", image)[1]


def files_of(image, folder):
    """{path: bytes} of all files; nothing is mounted."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _status, said = run("debugfs", "-R", f"rdump / {folder}", image)
    wrong = [line for line in said.splitlines() if not line.startswith("debugfs 1.") and "ownership" not in line]
    if wrong:
        raise Failed(f"debugfs: {' '.join(wrong)}")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def broken_promise(rules, files):
    """The first, in words; None: all are kept."""
    for path in sorted(files.keys() - rules.keys()):
        return f"{path} is there, and was never made"
    for path, rule in rules.items():
        got = files.get(path)
        if not holds(rule, got):
            found = "is not there" if got is None else f"has {len(got)} bytes that begin with {got[:16]!r}"
            return f"{path} {found}; promised: {json.dumps(rule)}"
    return None


class Judge:
    """Of the images of one recording."""

    def __init__(self, records, folder):
        self.promises, self.folder = promises(records), folder

    def judge(self, image, marks, alone=False):
        """Raises Failed. `alone`: it is the backing device, which may be behind."""
        check(image)
        files = files_of(image, self.folder / "files")
        wrong = broken_promise(self.promises[marks - 1], files)
        if wrong and alone and any(broken_promise(self.promises[n], files) is None for n in range(marks - 1)):
            return
        if wrong:
            raise Failed(f"{'at none of the marks so far' if alone else 'after mark'} {marks}: {wrong}")


def crashes(folder, recording=RECORDING, points=30, seed=1, options=(), mutant="", sites=None, keep=None):
    """Judges the states of so many crashes. Returns what pcache_prove has counted, with how many images were judged, of
    which kinds. Raises Failed. `mutant`, `sites`: PCACHE_MUTANT and PCACHE_MUTANT_SITES, see core/base/mutants.h."""
    raw, image = folder / "recording", folder / "image"
    if recording.suffix == ".zst":
        subprocess.run(["zstd", "-q", "-d", "-f", recording, "-o", raw], check=True)
    else:
        shutil.copyfile(recording, raw)
    judge = Judge(read_recording(raw), folder)
    command = [PROVE, "recorded", raw, "--image", image, "--points", points, "--seed", seed, *options]
    environment = os.environ | {"PCACHE_MUTANT": mutant} | ({"PCACHE_MUTANT_SITES": str(sites)} if sites else {})
    kinds = {}
    with subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, env=environment) as prove:
        try:
            for text in prove.stdout:
                line = json.loads(text)
                if "of" not in line:
                    prove.wait()
                    return line | {"images": kinds}
                kind = f"{line['of']}, {'background' if line['background'] else 'foreground'}"
                kinds[kind] = kinds.get(kind, 0) + 1
                try:
                    if "failed" in line:
                        raise Failed(line["failed"])
                    if keep:
                        shutil.copyfile(image, keep)
                    judge.judge(image, line["marks"], alone=line["of"] == "device")
                except Failed as failed:
                    raise Failed(f"state {line['state']} ({kind}, event {line['event']}, subset {line['subset']}, "
                                 f"seed {seed}): {failed}") from None
                prove.stdin.write("\n")
                prove.stdin.flush()
            said = prove.stderr.read()
            raise Failed(f"pcache_prove: exit status {prove.wait()}: {said[-2000:]}")
        finally:
            with contextlib.suppress(BrokenPipeError):
                prove.stdin.close()
            prove.kill()


def missing_for_crashes():
    """Why none can be judged here; None: they can."""
    if not PROVE.exists():
        return f"{PROVE} is missing: scripts/prove makes it"
    for tool in ("e2fsck", "debugfs", "dumpe2fs", "zstd"):
        if not shutil.which(tool):
            return f"{tool} is missing: scripts/setup"
    return None


def one_run(args, seed, options):
    """Prints what was found: JSON, or FAIL and the command that shows it again. False: it failed."""
    only = [] if args.only is None else ["--only", args.only]
    with tempfile.TemporaryDirectory(prefix="pcache-ext4-", dir=args.shm) as folder:
        try:
            found = crashes(pathlib.Path(folder), args.recording, args.points, seed, [*options, *only],
                            os.environ.get("PCACHE_MUTANT", ""), args.keep)
        except Failed as failed:
            state = re.match(r"state (\d+) ", str(failed))
            again = ["/usr/bin/python3", sys.argv[0], "--points", str(args.points), "--seed", str(seed), *options]
            again += ["--only", state[1]] if state else []
            print(f"FAIL {' '.join(str(failed).split())}; again: {' '.join(again)}", file=sys.stderr)
            return False
    print(json.dumps({"seed": seed, "options": options} | found), flush=True)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data-crc", action="store_true")
    parser.add_argument("--relaxed", action="store_true", help="the option backing_order")
    parser.add_argument("--fua", action="store_true", help="FLUSH, write, FLUSH become one write with PREFLUSH and FUA")
    parser.add_argument("--gc-percent", type=int, default=70, help="small: what is written back soon leaves the cache")
    parser.add_argument("--seconds", type=float, help="until then one seed after the other, each with other options")
    parser.add_argument("--recording", type=pathlib.Path, default=RECORDING)
    parser.add_argument("--only", type=int, help="the state of this number alone")
    parser.add_argument("--keep", type=pathlib.Path, help="each image is left there, as it was before it was judged")
    parser.add_argument("--shm", default="/dev/shm")
    args = parser.parse_args()
    if why := missing_for_crashes():
        parser.error(why)
    if args.seconds is None:
        options = [f"--{name.replace('_', '-')}" for name in ("data_crc", "relaxed", "fua") if getattr(args, name)]
        options.append(f"--gc-percent={args.gc_percent}")
        return 0 if one_run(args, args.seed, options) else 1
    end, seed = time.monotonic() + args.seconds, args.seed
    while one_run(args, seed, OPTIONS[seed % len(OPTIONS)]):
        seed += 1
        if time.monotonic() > end:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
