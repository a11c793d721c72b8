#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-randtrimwrite-offset.sh   rw=randtrimwrite with an offset= trims one block, and no more
#
# Expected: HOWTO, trimwrite: "Mixed sequential trim+write requests. Blocks will be trimmed first, then the
# same blocks will be written to"; randtrimwrite is the same with random offsets. `offset` says where the
# job begins in the file, and changes nothing else.
# Seen: with offset=0 16 blocks are trimmed and 16 written. With any other offset one is trimmed, and what
# is written then was not; the run succeeds. rw=trimwrite trims all, with an offset, too.
# Hurts: jobs with a range each (offset_increment=) measure, or verify, plain writes and take them for
# writes of trimmed blocks.
# Guard: test_fio_overload.py has one job without an offset for this workload, and counts its trims.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

seen=
for rw in trimwrite randtrimwrite; do
  for offset in 0 64k 16m; do
    unpacked fio --name=job --ioengine=null --rw=$rw --bs=64k --size=1m --offset=$offset --filesize=64m \
      --output=out --output-format=json
    seen+="$rw $offset: $(/usr/bin/python3 -c 'import json
job = json.load(open("out"))["jobs"][0]
print(job["trim"]["total_ios"], "trims,", job["write"]["total_ios"], "writes")'); "
  done
done
all="16 trims, 16 writes; "
one="1 trims, 16 writes; "
judge "16 trims and 16 writes, each" "trimwrite 0: ${all}trimwrite 64k: ${all}trimwrite 16m: ${all}\
randtrimwrite 0: ${all}randtrimwrite 64k: ${one}randtrimwrite 16m: $one" "$seen"
