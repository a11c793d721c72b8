#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-replay-trim.sh   the trims of a replayed log are left out, and the run succeeds
#
# Expected: HOWTO, "Trace file format v2", of the action `trim`: "Trim the given file from the given
# `offset` for `length` bytes". Version 3 has the same actions. A log with a write and two trims
# does three requests, or fails.
# Seen: one request. Each trim costs a line "bad ddir: 2" on stderr; fio exits with 0 and error 0.
# Hurts: what was recorded from a file system with discards is replayed without them: a device that
# gets slower, or full, without trims gives figures for another load. fio's own write_iolog= of a
# trim job cannot be replayed.
# Guard: engine/replay.c counts the trims of a log before the run, and refuses it with the number
# and first line.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

truncate -s 1m data
cat >log <<END
fio version 2 iolog
$work/data add
$work/data open
$work/data trim 0 4096
$work/data write 4096 4096
$work/data trim 8192 4096
$work/data close
END
status=0
unpacked fio --name=replay --ioengine=psync --read_iolog=log --output-format=json --output=out.json || status=$?
seen=$(python3 - <<'END'
import json
job = json.load(open("out.json"))["jobs"][0]
print(f"{job['write']['total_ios']} write, {job['trim']['total_ios']} trims, error {job['error']}", end="")
END
)
seen+=", exit status $status"
judge "1 write, 2 trims; or an error" "1 write, 0 trims, error 0, exit status 0" "$seen"
