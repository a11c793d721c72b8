#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-verify-randrw.sh   verify= with rw=randrw and norandommap fails on sound data
#
# Expected: HOWTO, verify: "To avoid false verification errors, do not use the norandommap option
# when verifying data with async I/O engines and I/O depths > 1. Or use the norandommap and the lfsr
# random generator together". One request at a time, of a synchronous engine, is neither; and lfsr
# is called the remedy.
# Seen: "verify: bad header rand_seed" and error 84, in both cases, on a plain file. A read of the
# write phase that meets a block written before is held against a seed that was drawn for the read.
# rw=randwrite is sound.
# Hurts: it is the message of real corruption. Whoever tests a cache or a disk looks for a bug that
# is not there.
# Guard: tests that verify rw=randrw (tests/test_fio_verify.py) leave norandommap out; those with it
# write only.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

job() { # OPTIONS: prints how it ended
  local status=0
  unpacked fio --name=job --ioengine=psync --bs=4k --size=1m --filename=data --norandommap --verify=crc32c \
    --verify_state_save=0 --randseed=1 "$@" >out 2>&1 || status=$?
  rm -f data
  echo "exit status $status$(grep -o 'bad header rand_seed' out | sort -u | sed 's/^/, /')"
}
seen="randwrite: $(job --rw=randwrite); randrw: $(job --rw=randrw)"
seen+="; randrw with lfsr: $(job --rw=randrw --random_generator=lfsr)"
bad="exit status 1, bad header rand_seed"
judge "exit status 0, all three" "randwrite: exit status 0; randrw: $bad; randrw with lfsr: $bad" "$seen"
