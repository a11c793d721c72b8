#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-unified-both.sh   unified_rw_reporting=both says that nothing was done
#
# Expected: HOWTO, unified_rw_reporting: "both: Statistics are reported normally, followed by the
# mixed statistics." The line of the mixed ones has the sum of the reads and the writes.
# Seen: "mixed: IOPS=0, BW=0 (0)(0B/..." below the right lines of the reads and the writes. With
# `mixed` alone, and in JSON, the sum is there.
# Hurts: a script that takes the line `mixed` from the normal output reports a device that did
# nothing.
# Guard: our harness reads JSON, per direction, and sets unified_rw_reporting nowhere.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

seen=
for how in mixed both; do
  unpacked fio --name=job --ioengine=null --rw=rw --bs=4k --size=64m --rate=100m,100m \
    --unified_rw_reporting=$how --output=out
  grep -E '^ +(read|write|mixed):' out | sed "s/^ */$how  /"
  seen+="$how: $(grep -q '^ *mixed: IOPS=0, BW=0 (0)(0B/' out && echo 0 || echo 'the sum'); "
done
judge "mixed: the sum; both: the sum; " "mixed: the sum; both: 0; " "$seen"
