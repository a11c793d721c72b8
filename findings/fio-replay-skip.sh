#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-replay-skip.sh   replay_skip=write writes all the same, if the log is fio's own
#
# Expected: HOWTO, replay_skip: "Sometimes it's useful to skip certain IO types in a replay trace.
# This could be, for instance, eliminating the writes in the trace." A log of a read and a write
# does the read alone.
# Seen: both. Only the reader of blktrace's binary format looks at the option, that of fio's logs
# does not.
# Hurts: who replays the reads of a log on a device with data, and names replay_skip=write to spare
# it, loses the data. Nothing is said.
# Guard: none in our code, as the engine does what fio asks for. For reads alone, filter the log, or
# use --readonly.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

truncate -s 1m data
for version in 2 3; do
  stamp= && [ $version = 2 ] || stamp='0 '
  cat >log$version <<END
fio version $version iolog
$stamp$work/data add
$stamp$work/data open
$stamp$work/data read 0 4096
$stamp$work/data write 4096 4096
$stamp$work/data close
END
  unpacked fio --name=replay --ioengine=psync --read_iolog=log$version --replay_skip=write \
    --output-format=json --output=out$version.json
done
seen=$(python3 - <<'END'
import json
for version in 2, 3:
    job = json.load(open(f"out{version}.json"))["jobs"][0]
    print(f"version {version}: {job['read']['total_ios']} read, {job['write']['total_ios']} write", end="; ")
print("data changed" if any(open("data", "rb").read()) else "data as it was")
END
)
judge "1 read, 0 writes" "version 2: 1 read, 1 write; version 3: 1 read, 1 write; data changed" "$seen"
