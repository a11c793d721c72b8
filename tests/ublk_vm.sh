#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What scripts/ublk-vm runs in its virtual machine, as root, by busybox. pcache-ublk's options for all: two queues, and no
# flush by time that could save what a flush of the device has to.

# shellcheck source=tests/vm_judge.sh
. /tests/vm_judge.sh

server=/opt/pcache/bin/pcache-ublk
ctl=/opt/pcache/bin/pcachectl
disk=/dev/ublkb0
pid='' fio='' writer='' preload='' # what clean_up() ends

# Not busybox's own, which its shell would take.
blkdiscard() { /usr/sbin/blkdiscard "$@"; }
fstrim() { /usr/sbin/fstrim "$@"; }

# What a test that has failed shows beside its own output.
show_logs() {
  cat /tmp/server.log
  sed -n '/ublk/p' /var/log/kernel 2>/dev/null
}

# Whatever a test has left. What waits for a device that has no server ends when the device is deleted; so umount waits for
# none, either.
clean_up() {
  for left in $fio $writer $pid; do kill -9 "$left" 2>/dev/null; done
  [ ! -e /dev/ublkc0 ] || $server --delete 0 2>/dev/null
  for left in $fio $writer $pid; do wait "$left" 2>/dev/null; done
  pid='' fio='' writer='' preload=''
  for _ in $(seq 100); do # what the writer had started ends now
    grep -q ' /mnt ' /proc/mounts || break
    umount /mnt 2>/dev/null || usleep 50000
  done
  for _ in $(seq 100); do # and with the last that had it open the device goes
    [ -e /dev/ublkc0 ] || break
    usleep 50000
  done
  rm -f /pm/* /tmp/queue_fails /tmp/queue_hangs
}

new_devices() { # BYTES of the backing device
  rm -f /pm/cache /pm/backing
  truncate -s "$1" /pm/backing
}

# Starts the server, and waits until it serves or has ended.
serve() { # [OPTION...]
  LD_PRELOAD=$preload $server cache_dev=/pm/cache cache_size=512m emulate_pmem=1 backing=/pm/backing flush_delay_ms=60000 \
    persist=flushcache "$@" >/tmp/server.out 2>/tmp/server.log &
  pid=$!
  for _ in $(seq 600); do
    grep -q 'is ready' /tmp/server.out && return 0
    kill -0 $pid 2>/dev/null || break
    usleep 50000
  done
  wait $pid
  code=$?
  pid=
  no "the server has ended with $code: $(tail -n 1 /tmp/server.log)"
}

# SIGKILL, and its end.
kill_server() {
  kill -9 $pid
  wait $pid 2>/dev/null
  pid=
}

# As after a power cut: the disk is gone, and made anew.
serve_again() { # [OPTION...]
  $server --delete 0 || no "the device of a dead server cannot be deleted" || return 1
  serve "$@"
}

end_server() {
  kill -TERM $pid
  wait $pid
  code=$?
  pid=
  [ $code = 0 ] || no "SIGTERM: it has ended with $code: $(tail -n 1 /tmp/server.log)" || return 1
  [ ! -e $disk ] && [ ! -e /dev/ublkc0 ] || no "SIGTERM has left the device" || return 1
  $ctl check /pm/cache --backing /pm/backing || no "pcachectl check: $?"
}

limit() { # NAME EXPECTED
  found=$(cat /sys/block/ublkb0/queue/"$1")
  [ "$found" = "$2" ] || no "$1 is $found, not $2"
}

reads_as() { # FILE OFFSET in blocks of 4 KiB
  bytes=$(stat -c %s "$1")
  dd if=$disk of=/tmp/found bs=4k skip="$2" count=$((bytes / 4096)) iflag=direct 2>/dev/null
  cmp "$1" /tmp/found
}

zeros() { # BLOCKS OFFSET in blocks of 4 KiB
  dd if=/dev/zero of=/tmp/zeros bs=4k count="$1" 2>/dev/null
  reads_as /tmp/zeros "$2"
}

# A line of the server's, which may be on its way.
has_said() { # WORDS
  for _ in $(seq 600); do
    grep -q "$1" /tmp/server.log && return 0
    usleep 50000
  done
  no "it does not say: $1"
}

# It ends by itself, in a minute or so.
has_ended() { # PID
  for _ in $(seq 1200); do
    kill -0 "$1" 2>/dev/null || return 0
    usleep 50000
  done
  no "the server does not end"
}

# ---- Tests ----

test_refusals() {
  chmod 600 /dev/ublk-control
  new_devices 64M
  su nobody -s /bin/sh -c "$server cache_dev=/pm/cache cache_size=512m emulate_pmem=1 backing=/pm/backing" 2>/tmp/line
  [ $? = 3 ] && [ "$(wc -l </tmp/line)" = 1 ] && grep -q 'ublk takes root' /tmp/line ||
    no "not root: $(cat /tmp/line)" || return 1
  $server --delete 7 2>/tmp/line
  [ $? = 3 ] && grep -q 'there is no such device' /tmp/line || no "--delete 7: $(cat /tmp/line)" || return 1
  serve || return 1
  first=$pid
  # Another cache, so that it is the device that is refused: one that is not there, and one that is blank.
  truncate -s 64M /pm/other
  truncate -s 512M /pm/blank
  for cache in cache2 blank; do
    $server cache_dev=/pm/$cache cache_size=512m emulate_pmem=1 backing=/pm/other --id 0 2>/tmp/line
    [ $? = 3 ] && grep -q '/dev/ublkc0 is there already' /tmp/line || no "--id 0: $(cat /tmp/line)" || return 1
  done
  [ ! -e /pm/cache2 ] || no "--id 0 was refused, and has made the cache" || return 1
  [ "$(stat -c %b /pm/blank)" = 0 ] || no "--id 0 was refused, and has formatted the cache" || return 1
  $server cache_dev=/pm/cache emulate_pmem=1 backing=/pm/backing 2>/tmp/line
  [ $? = 3 ] && [ "$(wc -l </tmp/line)" = 1 ] && [ ! -e /dev/ublkc1 ] || no "one cache twice: $(cat /tmp/line)" || return 1
  $server --recover 0 cache_dev=/pm/cache emulate_pmem=1 backing=/pm/backing 2>/tmp/line
  [ $? = 3 ] && grep -q 'without --recoverable' /tmp/line || no "--recover 0: $(cat /tmp/line)" || return 1
  kill -0 $first || no "the first server has ended" || return 1
  end_server
}

test_limits() {
  new_devices 64M
  serve --queues 2 --depth 16 || return 1
  limit logical_block_size 512 && limit physical_block_size 4096 && limit write_cache 'write back' && limit fua 1 &&
    limit max_hw_sectors_kb 512 && limit discard_granularity 4096 && limit nr_requests 16 || return 1
  [ "$(cat /sys/block/ublkb0/size)" = 131072 ] || no "size" || return 1
  [ "$(cat /sys/block/ublkb0/queue/discard_max_bytes)" -gt 4000000000 ] || no "no discard" || return 1
  [ "$(cat /sys/block/ublkb0/queue/write_zeroes_max_bytes)" -gt 4000000000 ] || no "no write zeroes" || return 1
  for name in discard_max_bytes write_zeroes_max_bytes; do
    [ $(($(cat /sys/block/ublkb0/queue/$name) % 4096)) = 0 ] || no "$name is no multiple of 4096" || return 1
  done
  [ "$(ls /sys/block/ublkb0/mq | wc -l)" = 2 ] || no "not two queues" || return 1
  end_server || return 1
  serve readonly=1 || no "readonly=1: $(cat /tmp/why)" || return 1
  [ "$(cat /sys/block/ublkb0/ro)" = 1 ] || no "readonly=1: the disk may be written" || return 1
  end_server
}

test_ext4() {
  new_devices 512M
  serve --queues 2 || return 1
  mkfs.ext4 -q $disk && mount -t ext4 $disk /mnt || no mkfs || return 1
  for i in $(seq 8); do
    noise 256 "/tmp/f$i" && dd if="/tmp/f$i" of="/mnt/f$i" bs=64k conv=fsync 2>/dev/null || no "write" || return 1
  done
  umount /mnt && e2fsck -fn $disk || no "e2fsck: $?" || return 1
  mount -t ext4 $disk /mnt || no "mount again" || return 1
  for i in $(seq 8); do cmp "/tmp/f$i" "/mnt/f$i" || no "f$i differs" || return 1; done
  umount /mnt
  # drain=1: the backing device alone has all of it
  end_server && serve drain=1 && end_server || return 1
  mkdir -p /alone
  cp /pm/backing /pm/alone
  e2fsck -fn /pm/alone || no "drain=1: e2fsck of the backing device alone: $?"
}

test_trim() {
  new_devices 512M
  serve --queues 2 || return 1
  noise 1024 /tmp/noise
  dd if=/tmp/noise of=$disk bs=4k oflag=direct 2>/dev/null || no write || return 1
  blkdiscard -o 4096 -l 2093056 $disk || no "blkdiscard" || return 1 # blocks 1 to 511
  zeros 511 1 || no "discarded, and no zeros" || return 1
  blkdiscard -z -o 2097152 -l 1048576 $disk || no "blkdiscard -z" || return 1 # 512 to 767
  zeros 256 512 || no "zeroed out, and no zeros" || return 1
  dd if=/tmp/noise of=/tmp/tail bs=4k skip=768 2>/dev/null
  reads_as /tmp/tail 768 || no "what is behind has changed" || return 1
  dd if=/tmp/noise of=/tmp/head bs=4k count=1 2>/dev/null
  reads_as /tmp/head 0 || no "what is before has changed" || return 1
  blkdiscard $disk && zeros 1024 0 || no "the whole disk, and no zeros" || return 1
  # All of it durable by one flush; then a file system, and what it has freed.
  dd if=/dev/zero of=$disk bs=512 count=1 oflag=direct conv=fsync 2>/dev/null
  kill_server
  serve_again drain=1 || return 1
  zeros 1024 0 || no "discarded and flushed, killed, and no zeros" || return 1
  mkfs.ext4 -q $disk && mount -t ext4 $disk /mnt || no mkfs || return 1
  noise 8192 /mnt/large && umount /mnt || no write || return 1
  end_server && serve drain=1 || return 1
  before=$(du -k /pm/backing | cut -f 1)
  mount -t ext4 $disk /mnt && rm /mnt/large && sync && fstrim -v /mnt || no fstrim || return 1
  umount /mnt && e2fsck -fn $disk || no "e2fsck: $?" || return 1
  end_server || return 1
  after=$(du -k /pm/backing | cut -f 1)
  note "drained, the backing file has $before KiB before fstrim, $after KiB behind it"
  [ $((before - after)) -gt 30000 ] || no "fstrim of 32 MiB has made no hole: $before KiB before, $after behind it"
}

test_fio() {
  new_devices 512M
  serve --queues 2 --depth 32 || return 1
  fio --name=verify --filename=$disk --ioengine=io_uring --direct=1 --rw=randwrite --bsrange=512-128k --bs_unaligned=0 \
    --size=96m --iodepth=16 --verify=crc32c --fsync=64 --randseed=7 --output=/tmp/fio.log ||
    no "fio: $(tail -n 3 /tmp/fio.log)" || return 1
  fio_is_content /tmp/fio.log || return 1
  # Past the cache's size, so that it writes back and fills meanwhile; reads that miss.
  fio --name=large --filename=$disk --ioengine=io_uring --direct=1 --rw=randrw --rwmixread=30 --bs=32k --size=400m \
    --iodepth=32 --verify=crc32c --fdatasync=256 --output=/tmp/fio2.log ||
    no "fio: $(tail -n 3 /tmp/fio2.log)" || return 1
  fio_is_content /tmp/fio2.log || return 1
  note "$(grep -h 'issued rwts' /tmp/fio.log /tmp/fio2.log | tr -s ' ' | tr '\n' ' ')"
  end_server
}

test_unaligned() { # requests of 512 bytes, in place of which a page of 4 KiB would be read and written
  new_devices 64M
  serve --queues 2 || return 1
  noise 8 /tmp/noise
  dd if=/tmp/noise of=$disk bs=512 seek=3 count=61 oflag=direct 2>/dev/null || no write || return 1
  dd if=$disk of=/tmp/found bs=512 skip=3 count=61 iflag=direct 2>/dev/null
  cmp -n 31232 /tmp/noise /tmp/found || no "512 bytes at a time: differs" || return 1
  end_server
}

test_flush() { # by the device's fsync, of what was written without FUA; then SIGKILL
  new_devices 64M
  serve --queues 2 || return 1
  noise 64 /tmp/noise
  dd if=/tmp/noise of=$disk bs=4k seek=100 oflag=direct conv=fsync || no write || return 1
  kill_server
  serve_again || return 1
  reads_as /tmp/noise 100 || no "flushed, killed, and gone" || return 1
  end_server
}

test_fua() { # ext4 asks for FUA alone where it overwrites a file in place for O_DIRECT and O_DSYNC; then SIGKILL
  new_devices 64M
  serve --queues 2 || return 1
  mkfs.ext4 -q $disk && mount -t ext4 $disk /mnt || no mkfs || return 1
  noise 64 /tmp/old
  noise 64 /tmp/new
  cp /tmp/old /mnt/file && sync || no write || return 1
  # shellcheck disable=SC2046 # words
  set -- $(cat /sys/block/ublkb0/stat)
  before=${16}
  dd if=/tmp/new of=/mnt/file bs=4k conv=notrunc oflag=direct,dsync || no write || return 1
  # shellcheck disable=SC2046 # words
  set -- $(cat /sys/block/ublkb0/stat)
  kill_server
  umount /mnt
  serve_again || return 1
  mount -t ext4 $disk /mnt && cmp /tmp/new /mnt/file || no "written with FUA, killed, and gone" || return 1
  note "64 writes, $((${16} - before)) flushes" # of the journal's
  [ $((${16} - before)) -lt 16 ] || no "these were flushes, not FUA: $((${16} - before))" || return 1
  umount /mnt
  end_server
}

test_unflushed() { # that the tests of FLUSH, FUA and recovery can fail: without either it is gone
  new_devices 64M
  serve --queues 2 || return 1
  noise 8 /tmp/noise
  dd if=/tmp/noise of=$disk bs=4k seek=100 oflag=direct 2>/dev/null || no write || return 1
  kill_server
  serve_again || return 1
  ! reads_as /tmp/noise 100 || no "neither flushed nor FUA, and there all the same" || return 1
  end_server
}

# Files that are fsynced, until something fails; /tmp/synced names those that were.
write_files() {
  : >/tmp/synced
  i=0
  while i=$((i + 1)); do
    noise $((i % 40 + 1)) "/tmp/now"
    dd if=/tmp/now of="/mnt/file$i" bs=16k conv=fsync 2>/dev/null || break
    echo "$(sha256sum </tmp/now | cut -d ' ' -f 1) file$i" >>/tmp/synced
  done
}

test_killed() {
  new_devices 512M
  serve --queues 2 || return 1
  mkfs.ext4 -q $disk || no mkfs || return 1
  total=0
  for round in 1 2 3; do
    mount -t ext4 $disk /mnt || no "mount" || return 1
    rm -f /mnt/file*
    write_files &
    writer=$!
    sleep $((round + 2))
    kill_server
    wait $writer
    writer=
    umount /mnt || no "umount of a disk that is gone" || return 1
    serve_again --queues 2 || return 1
    mount -t ext4 $disk /mnt || no "mount after SIGKILL" || return 1
    while read -r sum name; do
      [ "$(sha256sum <"/mnt/$name" | cut -d ' ' -f 1)" = "$sum" ] || no "$name was fsynced, and differs" || return 1
    done </tmp/synced
    count=$(wc -l </tmp/synced)
    [ "$count" -ge 3 ] || no "only $count files were fsynced" || return 1
    total=$((total + count))
    umount /mnt && e2fsck -fn $disk || no "e2fsck: $?" || return 1
  done
  note "3 rounds, $total fsynced files"
  end_server
}

test_recovered() {
  new_devices 512M
  serve --queues 2 --recoverable || return 1
  noise 64 /tmp/noise
  dd if=/tmp/noise of=$disk bs=4k seek=30000 oflag=direct 2>/dev/null || no write || return 1 # no flush, no FUA
  kill -9 $pid # and nobody has waited for its end: it is there yet, and a zombie then
  $server --recover 0 cache_dev=/pm/cache emulate_pmem=1 backing=/pm/cache 2>/tmp/line
  [ $? = 3 ] && grep -q 'another cache_dev or backing' /tmp/line || no "another: $(cat /tmp/line)" || return 1
  $server --recover 0 cache_dev=/pm/cache emulate_pmem=1 backing=/pm/backing readonly=1 2>/tmp/line
  [ $? = 3 ] && grep -q 'of another cache' /tmp/line || no "other limits: $(cat /tmp/line)" || return 1
  serve --recover 0 || return 1
  reads_as /tmp/noise 30000 || no "acknowledged, recovered, and gone" || return 1
  $server --recover 0 cache_dev=/pm/cache emulate_pmem=1 backing=/pm/backing 2>/tmp/line
  [ $? = 3 ] && grep -q "process $pid serves it" /tmp/line || no "served: $(cat /tmp/line)" || return 1
  mkfs.ext4 -q -E nodiscard $disk 50m && mount -t ext4 $disk /mnt || no mkfs || return 1
  for i in $(seq 20); do noise 64 "/mnt/f$i"; done
  (cd /mnt && sha256sum f*) >/tmp/sums
  # fio beside, behind the file system; both go on across three deaths of the server.
  fio --name=verify --filename=$disk --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --offset=200m --size=32m \
    --allow_mounted_write=1 --rate_iops=150 --iodepth=16 --verify=crc32c --output=/tmp/fio.log &
  fio=$!
  for round in 1 2 3; do
    sleep 2
    kill -9 $pid
    # In the first round the next one is there before the kernel has ended the last.
    [ $round = 1 ] || {
      wait $pid 2>/dev/null
      sleep 1
    }
    echo 3 >/proc/sys/vm/drop_caches &
    serve --recover 0 || return 1
  done
  kill -0 $fio 2>/dev/null || no "fio has ended before the last recovery: it was not across them" || return 1
  wait $fio || no "fio, across recoveries: $(tail -n 3 /tmp/fio.log)" || return 1
  fio_is_content /tmp/fio.log || return 1
  sync
  echo 3 >/proc/sys/vm/drop_caches
  (cd /mnt && sha256sum -c /tmp/sums) || no "a file has changed" || return 1
  umount /mnt && e2fsck -fn $disk || no "e2fsck: $?" || return 1
  fio=
  note "4 recoveries, 3 of them under fio's verify"
  end_server
}

test_recovered_grown() { # the disk keeps its size, whatever the cache has
  new_devices 64M
  serve --recoverable || return 1
  noise 8 /tmp/noise
  dd if=/tmp/noise of=$disk bs=4k seek=16376 oflag=direct 2>/dev/null || no write || return 1
  truncate -s 96M /pm/backing && $ctl resize-backing /pm/cache || no "resize-backing: $?" || return 1
  kill_server
  serve --recover 0 || return 1
  has_said 'keeps its 131072 sectors; the cache has 196608' || no "not said: $(cat /tmp/server.log)" || return 1
  [ "$(cat /sys/block/ublkb0/size)" = 131072 ] || no "its size: $(cat /sys/block/ublkb0/size)" || return 1
  reads_as /tmp/noise 16376 || no "acknowledged, recovered, and gone" || return 1
  kill_server
  truncate -s 48M /pm/backing
  $server --recover 0 cache_dev=/pm/cache emulate_pmem=1 backing=/pm/backing 2>/tmp/line
  [ $? = 3 ] || no "smaller: $(cat /tmp/line)" || return 1
  truncate -s 96M /pm/backing
  serve --recover 0 && end_server || return 1
  serve || return 1
  [ "$(cat /sys/block/ublkb0/size)" = 196608 ] || no "anew: $(cat /sys/block/ublkb0/size)" || return 1
  end_server
}

test_recovered_mutely() { # its line has no reader: it serves all the same
  new_devices 64M
  serve --recoverable || return 1
  noise 8 /tmp/noise
  dd if=/tmp/noise of=$disk bs=4k seek=100 oflag=direct 2>/dev/null || no write || return 1
  kill_server
  $server --recover 0 cache_dev=/pm/cache emulate_pmem=1 backing=/pm/backing >/dev/full 2>/tmp/server.log &
  pid=$!
  has_said 'standard output: ' || return 1
  reads_as /tmp/noise 100 & # which would wait for a server
  reader=$!
  while kill -0 $reader && kill -0 $pid; do usleep 50000; done 2>/dev/null
  kill -0 $pid || no "the server has ended" || return 1
  wait $reader || no "recovered, and gone" || return 1
  end_server
}

test_failed_queue() { # one of two: what is recoverable waits for the next server, what is not ends
  new_devices 64M
  noise 8 /tmp/noise
  preload=/sick_queue.so
  serve --queues 2 --recoverable || return 1
  dd if=/tmp/noise of=$disk bs=4k seek=100 oflag=direct 2>/dev/null || no write || return 1
  : >/tmp/queue_fails
  dd if=$disk of=/tmp/found bs=4k skip=5000 count=8 iflag=direct 2>/dev/null & # misses, which are reaped
  reader=$!
  has_ended $pid || return 1
  wait $pid
  code=$?
  pid=
  [ $code = 3 ] && has_said 'waits for --recover 0' || no "it has ended with $code: $(cat /tmp/server.log)" || return 1
  kill -0 $reader || no "the request has not waited" || return 1
  rm /tmp/queue_fails
  preload=
  serve --recover 0 || return 1
  wait $reader || no "the request that has waited has failed" || return 1
  cmp -n 32768 /dev/zero /tmp/found || no "what has waited reads otherwise" || return 1
  reads_as /tmp/noise 100 || no "acknowledged, recovered, and gone" || return 1
  preload=/sick_queue.so
  end_server && serve --queues 2 || return 1
  : >/tmp/queue_fails
  ! dd if=$disk of=/tmp/found bs=4k skip=6000 count=8 iflag=direct 2>/dev/null ||
    no "read by a queue that has failed" || return 1
  has_ended $pid || return 1
  wait $pid
  code=$?
  pid=
  [ $code = 3 ] && [ ! -e /dev/ublkc0 ] || no "without --recoverable it has ended with $code, or left the device"
}

test_ignored() { # by nohup, and in the background of a shell: the server goes on
  new_devices 64M
  trap '' HUP INT
  serve || return 1
  trap - HUP INT
  kill -HUP $pid && kill -INT $pid
  blocked=$(sed -n 's/^SigBlk:.*\(.\)$/\1/p' /proc/$pid/status)
  [ $((0x$blocked & 3)) = 0 ] || no "SIGHUP or SIGINT is blocked, so it comes" || return 1
  noise 8 /tmp/noise
  dd if=/tmp/noise of=$disk bs=4k oflag=direct 2>/dev/null && reads_as /tmp/noise 0 || no "it does not serve" || return 1
  kill -0 $pid && [ -e $disk ] || no "the server has ended" || return 1
  end_server || return 1
  serve || return 1
  kill -HUP $pid
  wait $pid
  code=$?
  pid=
  [ $code = 0 ] || no "SIGHUP that is not ignored: it has ended with $code"
}

test_end_while_mounted() { # the kernel writes what the file system has, before the disk goes
  new_devices 512M
  serve --queues 2 || return 1
  mkfs.ext4 -q $disk && mount -t ext4 $disk /mnt || no mkfs || return 1
  noise 256 /tmp/noise && cp /tmp/noise /mnt/file || no write || return 1
  kill -TERM $pid
  wait $pid
  code=$?
  pid=
  [ $code = 0 ] || no "it has ended with $code" || return 1
  grep -q 'is open still' /tmp/server.log || no "it does not say that the disk is open" || return 1
  umount /mnt || no "umount" || return 1
  serve || return 1
  mount -t ext4 $disk /mnt && cmp /tmp/noise /mnt/file || no "what was written is gone" || return 1
  umount /mnt && e2fsck -fn $disk || no "e2fsck: $?" || return 1
  end_server
}

test_deleted_beside() { # somebody else removes the device: the server ends
  new_devices 64M
  serve --queues 2 || return 1
  exec 9<$disk
  $server --delete 0 2>/tmp/line
  [ $? = 3 ] && grep -q 'it is open, or requests of it wait' /tmp/line || no "open: $(cat /tmp/line)" || return 1
  exec 9<&-
  wait $pid
  code=$?
  pid=
  [ $code = 0 ] || no "its disk was open: the server has ended with $code: $(tail -n 1 /tmp/server.log)" || return 1
  for _ in $(seq 100); do
    [ -e /dev/ublkc0 ] || break
    usleep 50000
  done
  [ ! -e /dev/ublkc0 ] || no "nobody has the disk open, and the device is there" || return 1
  serve --queues 2 || return 1
  $server --delete 0 || no "--delete: $?" || return 1
  wait $pid
  code=$?
  pid=
  [ $code = 0 ] || no "the server has ended with $code: $(tail -n 1 /tmp/server.log)"
}

test_deleted_while_it_waits() { # a request that does not end, and SIGKILL of its server
  new_devices 64M
  for kind in '' --recoverable; do
    preload=/sick_queue.so
    # shellcheck disable=SC2086 # none, or one
    serve $kind || return 1
    : >/tmp/queue_hangs
    dd if=$disk of=/tmp/found bs=4k skip=5000 count=1 iflag=direct 2>/dev/null & # a miss, which is to be reaped
    reader=$!
    for _ in $(seq 600); do # [read] and [written] are in flight
      grep -q '[1-9]' /sys/block/ublkb0/inflight && break
      usleep 50000
    done
    $server --delete 0 2>/tmp/line &
    deleter=$!
    for _ in $(seq 600); do
      [ -s /tmp/line ] && break
      usleep 50000
    done
    grep -q 'or requests of it wait' /tmp/line || no "$kind --delete: $(cat /tmp/line)" || return 1
    kill -0 $reader || no "$kind: the request has not waited" || return 1
    kill_server
    ! wait $reader || no "$kind: a request without a server has been served" || return 1
    wait $deleter
    code=$?
    [ $code = 3 ] || no "$kind --delete: $code" || return 1
    for _ in $(seq 100); do
      [ -e /dev/ublkc0 ] || break
      usleep 50000
    done
    [ ! -e /dev/ublkc0 ] || no "$kind: SIGKILL, and the device is there" || return 1
    rm /tmp/queue_hangs
  done
}

[ -e /dev/ublk-control ] || say "there is no /dev/ublk-control"
mkdir -p /mnt /pm /var/log
mount -t tmpfs -o size=2500m tmpfs /pm
chmod 1777 /pm
judge_all refusals limits ext4 trim fio unaligned flush fua unflushed killed recovered recovered_grown recovered_mutely failed_queue \
  ignored end_while_mounted deleted_beside deleted_while_it_waits
