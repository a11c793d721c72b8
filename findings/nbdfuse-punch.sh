#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/nbdfuse-punch.sh   a hole that is punched in nbdfuse's file still reads as the old data
#
# Expected: fallocate(2), FALLOC_FL_PUNCH_HOLE: "After a successful call, subsequent reads from this range
# will return zeros." The NBD protocol, NBD_CMD_TRIM: a hint; after it a client "MUST NOT make any assumptions
# about the contents" of the range. NBD_CMD_WRITE_ZEROES makes zeros.
# Seen: nbdfuse sends a punched hole as NBD_CMD_TRIM. Over a server whose trim does nothing, as it may,
# fallocate succeeds and the old data is read. FALLOC_FL_ZERO_RANGE makes zeros.
# Hurts: a loop device on that file punches holes where zeros may be holes: ext4's lazy initialization of inode
# tables arrives as trims, and leaves what stood there before.
# Guard: the trim of engine/nbdkit makes zeros, at any offset and length; a test reads them back.
# Takes a mount by FUSE: root or fusermount3; without one the exit status is 2.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages libnbd-bin=1.14.2-1 nbdkit=1.32.5-1
unpacked nbdfuse --version

unmount() { umount mnt 2>/dev/null || fusermount3 -u mnt; }
trap 'unmount >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

# A server of 64 KiB of A in a file; its trim is a hint that it does not take.
head -c 65536 /dev/zero | tr '\0' A >data
cat >server <<'END_SERVER'
#!/bin/bash
# nbdkit's sh plugin: METHOD HANDLE ...
cd "$(dirname "$0")"
case $1 in
  get_size) echo 65536 ;;
  pread) tail -c +$(($4 + 1)) data | head -c "$3" ;;
  pwrite) dd of=data oflag=seek_bytes seek="$4" conv=notrunc status=none ;;
  zero) head -c "$3" /dev/zero | dd of=data oflag=seek_bytes seek="$4" conv=notrunc status=none ;;
  trim) echo "$3 bytes" >>trims ;;
  can_write | can_trim | can_zero) ;;
  *) exit 2 ;;
esac
END_SERVER
chmod +x server
mkdir mnt
words nbdkit
"${command[@]}" --foreground --exit-with-parent --unix "$work/socket" \
  "$(echo root/usr/lib/*/nbdkit/plugins/nbdkit-sh-plugin.so)" "$work/server" >nbdkit.log 2>&1 &
for ((i = 0; i < 100; i++)); do [ -S socket ] || sleep 0.1; done
words nbdfuse
"${command[@]}" mnt "nbd+unix:///?socket=$work/socket" >nbdfuse.log 2>&1 &
for ((i = 0; i < 100; i++)); do [ -e mnt/nbd ] || sleep 0.1; done
[ -e mnt/nbd ] || { cat nbdfuse.log >&2 && exit 2; }

after() { # OFFSET: the byte there
  head -c $(($1 + 4096)) mnt/nbd | tail -c 4096 | tr '\0' 0 | head -c 1
}
fallocate --punch-hole --offset 0 --length 4096 mnt/nbd
fallocate --zero-range --keep-size --offset 8192 --length 4096 mnt/nbd
seen="punched: $(after 0); zeroed: $(after 8192); trims: $(cat trims 2>/dev/null || echo none)"
unmount
judge "punched: 0; zeroed: 0; trims: none" "punched: A; zeroed: 0; trims: 4096 bytes" "$seen"
