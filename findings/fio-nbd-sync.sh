#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-nbd-sync.sh   with ioengine=nbd sync=1 makes no write durable, and fdatasync=1 ends the job
#
# Expected: HOWTO, sync: "Whether, and what type, of synchronous I/O to use for writes"; fdatasync: "Like
# `fsync` but uses fdatasync(2)". NBD has a flag for one (FUA) and a request for the other (FLUSH), and the
# server offers both.
# Seen: sync=1 and sync=dsync send neither, and the run succeeds. fdatasync=1 fails with "Invalid argument"
# after the first write. fsync=1 sends a FLUSH after each write but the last.
# Hurts: what looks like a measurement of synchronous writes is one of writes that a power cut may take.
# Guard: our jobs over NBD use fsync= and end_fsync=1 alone; engine/nbdkit/CLIENTS.md says what each sends.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3 nbdkit=1.32.5-1
unpacked fio --version

plugins=$(echo root/usr/lib/*/nbdkit)
words nbdkit
"${command[@]}" --foreground --exit-with-parent --unix "$work/socket" \
  --filter="$plugins/filters/nbdkit-log-filter.so" "$plugins/plugins/nbdkit-memory-plugin.so" 4M \
  logfile="$work/log" >nbdkit.log 2>&1 &
for ((i = 0; i < 100; i++)); do [ -S socket ] || sleep 0.1; done
[ -S socket ] || { cat nbdkit.log >&2 && exit 2; }

seen=
for option in sync=1 sync=dsync fdatasync=1 fsync=1; do
  from=$(wc -l <log)
  status=0
  unpacked fio --name=job --ioengine=nbd --uri="nbd+unix:///?socket=$work/socket" --rw=write --bs=4k --size=64k \
    --$option --output=out.txt 2>/dev/null || status=$?
  tail -n +$((from + 1)) log >requests
  seen+="$option: $(grep -c ' Write id' requests) writes, $(grep -c ' fua=1 ' requests || true) FUA, \
$(grep -c ' Flush id' requests || true) FLUSH, exit status $status; "
done
judge "FUA or FLUSH of 16 writes, exit status 0; of each" "sync=1: 16 writes, 0 FUA, 0 FLUSH, exit status 0; \
sync=dsync: 16 writes, 0 FUA, 0 FLUSH, exit status 0; fdatasync=1: 1 writes, 0 FUA, 0 FLUSH, exit status 1; \
fsync=1: 16 writes, 0 FUA, 15 FLUSH, exit status 0; " "$seen"
