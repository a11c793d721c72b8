#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-mounted.sh   a job that fio refuses, since its device is mounted, ends with 0 and no error
#
# Expected: HOWTO, allow_mounted_write: "If this isn't set, fio will abort jobs that are destructive (e.g.
# that write) to what appears to be a mounted device or partition". A job that is aborted is no success.
# Seen: fio says so on stderr, does nothing, and exits with 0. Its JSON has the job with "error": 0 and no
# I/O. Unmounted, the same job writes.
# Hurts: a script that measures or fills a disk goes by the status and the JSON, and goes on with zeros.
# Guard: pcache-sweep takes a job that has done nothing for an error (bench/sweep/fio_job.cc); tests/ublk_vm.sh
# reads what fio says.
set -euo pipefail
source "$(dirname "$0")/common.bash"
[ "$(id -u)" = 0 ] || { echo "needs root, to mount a loop device of its own" >&2 && exit 2; }
packages fio=3.33-3
unpacked fio --version

truncate -s 64m disk
mkfs.ext4 -q disk
mkdir mounted
loop=$(losetup --find --show disk)
# common.bash has removed the folder otherwise.
trap 'umount -q "$work/mounted" || true; losetup --detach "$loop" || true; rm -rf "$work"' EXIT

run() {
  local status=0
  unpacked fio --name=job --filename="$loop" --rw=write --bs=64k --size=1m --output-format=json \
    >out 2>told || status=$?
  /usr/bin/python3 -c 'import json, sys
job = json.load(open("out"))["jobs"][0]
writes, error = job["write"]["total_ios"], job["error"]
print(f"exit status {sys.argv[1]}, error {error}, {writes} writes", end="")' "$status"
}

mount "$loop" mounted
while_mounted=$(run)
grep -q 'appears mounted' told || { echo "it was not refused" >&2 && exit 1; }
umount mounted
judge "an exit status that is not 0 while it is mounted" \
  "mounted: exit status 0, error 0, 0 writes; unmounted: exit status 0, error 0, 16 writes" \
  "mounted: $while_mounted; unmounted: $(run)"
