#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-replay-tail.sh   what is in flight when a replayed log ends is not in the result
#
# Expected: HOWTO, read_iolog: fio will "replay the I/O patterns it contains". A log of 64 reads of
# 4096 bytes gives 262144 bytes and 64 latencies at each depth.
# Seen: at depth 16 the JSON has total_ios 64, and the bytes and latencies of 49 alone: the requests
# in flight when the log has been read through are not accounted. With a log shorter than the depth
# the bytes, the runtime and the bandwidth are 0.
# Hurts: total_ios, io_bytes and bandwidth contradict each other, and what is missing are the last
# requests, which the device was asked for too.
# Guard: bench/writeback.py checks error and total_ios, reads no io_bytes, and refuses a runtime of
# 0.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

truncate -s 1m data
{
  printf 'fio version 2 iolog\n%s add\n%s open\n' "$work/data" "$work/data"
  for i in {0..63}; do echo "$work/data read $((i * 4096)) 4096"; done
  echo "$work/data close"
} >log
for depth in 1 16; do
  unpacked fio --name=replay --ioengine=libaio --iodepth=$depth --read_iolog=log \
    --output-format=json --output=out$depth.json
done
seen=$(python3 - <<'END'
import json
for depth in 1, 16:
    job = json.load(open(f"out{depth}.json"))["jobs"][0]
    read = job["read"]
    assert job["error"] == 0
    done = read["clat_ns"]["N"]
    assert read["io_bytes"] == done * 4096
    print(f"depth {depth}: {read['total_ios']} ios, {'the bytes of all' if done == 64 else 'fewer bytes'}", end="; ")
END
)
judge \
  "depth 1: 64 ios, the bytes of all; depth 16: 64 ios, the bytes of all; " \
  "depth 1: 64 ios, the bytes of all; depth 16: 64 ios, fewer bytes; " \
  "$seen"
