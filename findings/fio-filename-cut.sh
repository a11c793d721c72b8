#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-filename-cut.sh   an option on the command line ends at `#` or `;`
#
# Expected: HOWTO, "Job file format": "If the first character in a line is a ';' or a '#', the
# entire line is discarded as a comment." A command line has no lines and no comments:
# --filename=disk#2 is the file of that name.
# Seen: fio writes the file `disk`, as if the rest were a comment; the same in a job file, within a
# line.
# Hurts: fio writes to another file or device than the one that was named, and reports success.
# Guard: bench/sweep/fio_value.cc refuses a value with these characters and says which.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

seen=
for name in 'disk#2' 'disk;2'; do
  mkdir here
  unpacked fio --name=job --ioengine=psync --rw=write --size=4k --directory=here --filename="$name" --output=out
  seen+="$name wrote $(ls here); "
  rm -r here
done
printf '[job]\nioengine=psync\nrw=write\nsize=4k\ndirectory=.\nfilename=inside#2\n' >job.fio
unpacked fio job.fio --output=out
seen+="in a job file wrote $(echo inside*)"
judge "disk#2, disk;2, inside#2" "disk#2 wrote disk; disk;2 wrote disk; in a job file wrote inside" "$seen"
