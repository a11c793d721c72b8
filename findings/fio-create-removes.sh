#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-create-removes.sh   allow_file_create=0 removes a file that is shorter than the job
#
# Expected: HOWTO, allow_file_create: "If true, fio is permitted to create files as part of its
# workload. If this option is false, then fio will error out if the files it needs to use don't
# already exist." The file exists; an error would leave it as it is.
# Seen: with allow_file_create=0 a job over a file of 4 KiB that asks for 64 KiB fails, since fio
# would lay the file out anew, and the file is gone.
# Hurts: a path that was mistyped, or a size that was, costs the user the file's content.
# Guard: pcache-sweep looks at the size of files that it is given before fio does; on other hosts, where
# only fio can look, it asks with create_on_open=1, with which fio lays out nothing.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

seen=
for option in allow_file_create=1 allow_file_create=0 "allow_file_create=0 --create_on_open=1"; do
  head -c 4096 /dev/zero >data
  status=0
  # shellcheck disable=SC2086 # words
  unpacked fio --name=job --ioengine=psync --rw=read --bs=4k --size=64k --filename=data --$option \
    >out.log 2>&1 || status=$?
  seen+="${option/ --/ }: status $status, $([ -e data ] && echo there || echo gone); "
done
judge "there, in each case" "allow_file_create=1: status 0, there; \
allow_file_create=0: status 1, gone; allow_file_create=0 create_on_open=1: status 1, there; " "$seen"
