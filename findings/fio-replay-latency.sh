#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-replay-latency.sh   at iodepth > 1 the latencies of a replay contain the log's pauses
#
# Expected: HOWTO, "Interpreting the output": clat is "the time from submission to completion of the
# I/O pieces", for asynchronous engines until fio reaps the completion; and fio has nothing to do
# between two requests of a log but that. Reads of a cached file take microseconds.
# Seen: with a log of version 3 and 20 ms between reads, the median clat is 60 ms at iodepth 4.
# While fio waits for a request's time it reaps nothing: a read is complete at once, and is noticed
# when the queue is full.
# Hurts: the median is iodepth - 1 pauses of the log. A replay of a lightly loaded device says
# nothing of the device, and comparing two of them compares their logs.
# Guard: no figure of ours is a latency of a replay; writeback.py takes a replay's runtime, with
# replay_no_stall=1.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

head -c 1m /dev/zero >data
{
  printf 'fio version 3 iolog\n0 %s add\n0 %s open\n' "$work/data" "$work/data"
  for i in {0..39}; do echo "$((i * 20000)) $work/data read $((i * 4096)) 4096"; done
  echo "800000 $work/data close"
} >log
for depth in 1 4; do
  unpacked fio --name=replay --ioengine=libaio --iodepth=$depth --read_iolog=log \
    --output-format=json --output=out$depth.json
done
seen=$(python3 - <<'END'
import json
one, four = (json.load(open(f"out{d}.json"))["jobs"][0]["read"]["clat_ns"]["percentile"]["50.000000"] / 1e6
             for d in (1, 4))
print(f"depth 1: {'under' if one < 10 else 'over'} 10 ms, depth 4: {'under' if four < 40 else 'over'} 40 ms")
END
)
judge "depth 1: under 10 ms, depth 4: under 10 ms" "depth 1: under 10 ms, depth 4: over 40 ms" "$seen"
