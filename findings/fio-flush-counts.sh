#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-flush-counts.sh   fdatasync= is counted as short reads, and as no sync
#
# Expected: HOWTO, "IO issued rwt": "The number of read/write/trim requests issued, and how many of
# them were short or dropped", and fdatasync: "Like `fsync` but uses fdatasync(2)". Writes alone,
# each whole, have no short read.
# Seen: fsync=4 over 64 writes gives sync total_ios 15, and no short one. fdatasync=4 gives sync
# total_ios 0 and 15 short reads, sync_file_range= as many short writes. The counts of these two
# kinds are kept past the end of the array of totals, in that of short requests. Only the latencies
# (sync.lat_ns.N) are right.
# Hurts: a rate of flushes taken from total_ios is 0, and a check for short requests fails, or is
# switched off.
# Guard: pcache-sweep takes the larger of total_ios and lat_ns.N; tests count the flushes that reach the
# cache, which has its own counters.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

seen=
for option in fsync=4 fdatasync=4 sync_file_range=write:4; do
  unpacked fio --name=job --ioengine=psync --rw=write --bs=4k --size=256k --filename=data --$option \
    --output-format=json --output=out.json
  seen+="${option%%=*}: $(python3 - <<'END'
import json
job = json.load(open("out.json"))["jobs"][0]
print(f"sync {job['sync']['total_ios']} (N {job['sync']['lat_ns']['N']}), short", *(job[d]["short_ios"] for d in
      ("read", "write", "trim")))
END
  ); "
done
judge "sync 15 (N 15), short 0 0 0; of each" "fsync: sync 15 (N 15), short 0 0 0; \
fdatasync: sync 0 (N 15), short 15 0 0; sync_file_range: sync 0 (N 15), short 0 15 0; " "$seen"
