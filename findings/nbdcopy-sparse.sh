#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/nbdcopy-sparse.sh   --sparse has no effect on what comes by a pipe, or with --synchronous
#
# Expected: nbdcopy(1), --sparse=N: "Detect all zero blocks of size N (bytes) and make them sparse on the
# output. [...] The default is 4096 bytes". Of pipes and --synchronous it says that they are slow, without
# parallelism.
# Seen: a file of zeros is copied by requests for zeros. The same by a pipe, or with --synchronous, is written as
# data, with --sparse=4096 too.
# Hurts: an image that is restored by a pipe takes all of its size in a cache and on a thin disk.
# Guard: engine/nbdkit/CLIENTS.md tells what each way to copy sends.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages libnbd-bin=1.14.2-1 nbdkit=1.32.5-1
unpacked nbdcopy --version

plugins=$(echo root/usr/lib/*/nbdkit)
words nbdkit
"${command[@]}" --foreground --exit-with-parent --unix "$work/socket" \
  --filter="$plugins/filters/nbdkit-log-filter.so" "$plugins/plugins/nbdkit-memory-plugin.so" 1M \
  logfile="$work/log" >nbdkit.log 2>&1 &
for ((i = 0; i < 100; i++)); do [ -S socket ] || sleep 0.1; done
[ -S socket ] || { cat nbdkit.log >&2 && exit 2; }
uri="nbd+unix:///?socket=$work/socket"
head -c 1048576 /dev/zero >zeros  # with no hole

seen=
since() { # WHAT: the kinds of requests since the last call
  tail -n +$((${from:-0} + 1)) log >requests
  from=$(wc -l <log)
  seen+="$1:$(sed -n 's/.* \(Write\|Zero\) id.*/ \1/p' requests | sort -u | tr -d '\n'); "
}
unpacked nbdcopy --sparse=4096 zeros "$uri"
since file
unpacked nbdcopy --sparse=4096 -- - "$uri" < <(cat zeros)
since pipe
unpacked nbdcopy --sparse=4096 --synchronous zeros "$uri"
since synchronous
judge "file: Zero; pipe: Zero; synchronous: Zero; " "file: Zero; pipe: Write; synchronous: Write; " "$seen"
