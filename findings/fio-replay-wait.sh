#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-replay-wait.sh   `wait` in a replayed log counts milliseconds, from fio's start on
#
# Expected: HOWTO, "Trace file format v2": "Wait for `offset` microseconds", and "The time is
# relative to the previous `wait` statement". Two waits, of 1500 and of 1000 microseconds, delay a
# replay by 2.5 ms.
# Seen: the job takes a second and a half. read_iolog_get() compares the number with the
# milliseconds since fio began: the first wait lasts until 1500 ms, and the second, whose moment has
# gone by then, not at all.
# Hurts: a log that keeps to the documentation is replayed 1000 times too slowly, and pauses of
# equal length become one pause. The latencies look sound; only the load was never the one in the
# log.
# Guard: bench/writeback.py writes its log without waits, and replays it with replay_no_stall=1.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

truncate -s 1m data
cat >log <<END
fio version 2 iolog
$work/data add
$work/data open
$work/data read 0 4096
$work/data wait 1500 0
$work/data read 4096 4096
$work/data wait 1000 0
$work/data read 8192 4096
$work/data close
END
unpacked fio --name=replay --ioengine=psync --read_iolog=log --output-format=json --output=out.json
seen=$(python3 - <<'END'
import json
job = json.load(open("out.json"))["jobs"][0]
assert job["error"] == 0 and job["read"]["total_ios"] == 3
ms = job["read"]["runtime"]  # fio had begun some time before the job did
print("as documented" if ms < 1000 else "the first wait as milliseconds, the second not" if ms < 2000 else
      "both as milliseconds")
END
)
judge "waits of 1.5 and 1.0 ms" "the first wait as milliseconds, the second not" "$seen"
