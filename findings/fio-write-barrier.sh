#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-write-barrier.sh   write_barrier=N makes no write a barrier
#
# Expected: HOWTO, write_barrier: "Make every N-th write a barrier write." Something orders or
# flushes then: an fsync, an RWF_ flag, a file opened with O_SYNC.
# Seen: the job makes the same system calls as without it. fio marks each Nth request, and none of
# the engines that come with it looks at the mark. No line says so.
# Hurts: barriers look free. A benchmark of a journal or a cache measures plain writes and names
# them ordered ones.
# Guard: our own engine heeds the mark (engine/README.md, "Barrier"); it must not be compared with
# another engine under this option. To compare flushes, use fsync= or sync=.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3 strace=6.1-0.1
unpacked fio --version

flushes() { # OPTIONS: prints whether there were any, among 16 writes
  words fio
  unpacked strace -f -qq -o trace "${command[@]}" --name=job --rw=write --bs=4k --size=64k \
    --filename=data --thread "$@" >/dev/null
  [ "$(grep -cE '(pwrite64|io_submit)\(' trace)" -ge 16 ] || { echo "no writes seen" >&2 && exit 2; }
  grep -qE '(fsync|fdatasync|sync_file_range)\(|RWF_|O_D?SYNC|aio_rw_flags' trace && echo some || echo none
}
seen="psync: $(flushes --ioengine=psync --write_barrier=4)"
seen+=", libaio: $(flushes --ioengine=libaio --write_barrier=4)"
seen+=", fsync=4: $(flushes --ioengine=psync --fsync=4)"
judge "some flush or flag, in all three" "psync: none, libaio: none, fsync=4: some" "$seen"
