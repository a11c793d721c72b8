#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What scripts/dax-vm runs in its virtual machine, as root, by busybox: /dev/pmem0 becomes a devdax device, /dev/pmem1 has the
# file systems. The backing device is a file of tmpfs. fio's cache has no flush by time that could save what a FLUSH has to.

# shellcheck source=tests/vm_judge.sh
. /tests/vm_judge.sh

ctl=/opt/pcache/bin/pcachectl
pcached=/opt/pcache/bin/pcached
engine=/opt/pcache/lib/libpcache_fio.so
backing=/pm/backing
cache='' # of the test: a devdax device, or a file
pid='' # what clean_up() ends
begin='' # exec: the process that runs fio becomes it

show_logs() {
  cat /tmp/fio.err
  dmesg | tail -n 5
}

clean_up() {
  [ -z "$pid" ] || kill_fio
  for _ in $(seq 100); do # what pcached has started ends now
    grep -q ' /mnt ' /proc/mounts || break
    umount /mnt 2>/dev/null || usleep 50000
  done
  rm -f /pm/* /tmp/fio.log /tmp/begun /tmp/status
}

# ---- Devices ----

new_backing() { # BYTES
  rm -f $backing
  truncate -s "$1" $backing
}

namespace() { # MODE NAMESPACE [OPTION...]
  mode=$1 name=$2
  shift 2
  ndctl create-namespace -f -e "$name" -m "$mode" "$@" >/tmp/namespace || no "ndctl: $name does not become $mode"
}

# All of it zeros before, so blank.
make_devdax() {
  namespace raw namespace0.0 && dd if=/dev/zero of=/dev/pmem0 bs=1M oflag=direct 2>/dev/null
  namespace devdax namespace0.0 || return 1
  cache=/dev/$(sed -n 's/.*"chardev":"\(dax[0-9.]*\)".*/\1/p' /tmp/namespace | head -n 1)
  [ -c "$cache" ] || no "no devdax device: $cache"
}

# On /mnt: with -o dax unless other options are given.
make_file_system() { # ext4 or xfs [OPTION...]
  kind=$1
  shift
  namespace fsdax namespace1.0 --map=mem || return 1
  disk=/dev/$(sed -n 's/.*"blockdev":"\(pmem[0-9.]*\)".*/\1/p' /tmp/namespace)
  if [ "$kind" = xfs ]; then
    mkfs.xfs -q -f "$disk"
  else
    mkfs.ext4 -q -F -b 4096 "$disk"
  fi || no "mkfs.$kind: $?" || return 1
  mount -t "$kind" "${@:--odax}" "$disk" /mnt || no "mount $*: $?"
}

check_file_system() { # with no finding; it is mounted before
  umount /mnt || no "umount: $?" || return 1
  case $kind in
    xfs) xfs_repair -n "$disk" ;;
    *) e2fsck -fn "$disk" ;;
  esac || no "$kind is damaged: $?"
}

# ---- fio ----

run_fio() { # [OPTION...]
  $begin fio --output=/tmp/fio.log --ioengine=external:$engine --thread --cache_dev="$cache" --filename=$backing --flush_delay_ms=60000 \
    --verify=crc32c --verify_fatal=1 --verify_state_save=0 --iodepth=16 "$@"
}

fio_is_good() { # [OPTION...]
  run_fio "$@" || no "fio $*: $(tail -n 3 /tmp/fio.log)" || return 1
  fio_is_content /tmp/fio.log
}

# Writes all of a range once, durably, verifies it, and ends.
write_all() { # [OPTION...]
  fio_is_good --name=all --rw=randwrite --bsrange=4k-64k --size=96m --end_fsync=1 "$@"
}
read_all() { # [OPTION...]
  write_all --verify_only "$@"
}

# Writes 16 MiB as the options say, and goes on elsewhere without a flush, until it is killed.
start_fio() { # [OPTION... of what writes the 16 MiB]
  rm -f /tmp/begun
  begin='exec' run_fio --name=first --rw=randwrite --bs=4k --size=16m --do_verify=0 "$@" \
    --name=second --stonewall --exec_prerun='touch /tmp/begun' --rw=randwrite --bs=512 --offset=800m --size=4m --do_verify=0 \
    --time_based --runtime=600 --rate_iops=500 2>/tmp/fio.err &
  pid=$!
}

has_gone_on() {
  until [ -e /tmp/begun ]; do
    kill -0 $pid 2>/dev/null || no "fio has ended: $(cat /tmp/fio.err; tail -n 3 /tmp/fio.log)" || return 1
    usleep 50000
  done
}

kill_fio() {
  kill -9 $pid
  wait $pid 2>/dev/null
  pid=
}

read_first() { # [OPTION... of the first job]
  fio_is_good --name=first --rw=randwrite --bs=4k --size=16m --verify_only "$@"
}

# ---- What pcachectl and the kernel say ----

is_sound() { # WORDS behind that: a pattern
  $ctl check "$cache" --backing $backing >/tmp/check 2>&1 || no "pcachectl check: $?: $(tail -n 1 /tmp/check)" || return 1
  tail -n 1 /tmp/check | grep -q "^sound, $1" || no "pcachectl check: not \"$1\": $(tail -n 1 /tmp/check)"
}
is_dirty() { is_sound '[0-9].* dirty$'; }
is_clean() { is_sound 'nothing dirty$'; }

# Not by the status: that looks at the device itself while nobody has it, who is refused then.
is_attached() {
  for _ in $(seq 600); do
    $ctl list 2>/dev/null | grep -q "^$cache, " && return 0
    kill -0 $pid 2>/dev/null || break
    usleep 50000
  done
  no "not attached: $(cat /tmp/fio.err)"
}

field_is() { # NAME VALUE in the status of a cache that is attached
  is_attached || return 1
  $ctl status "$cache" --json >/tmp/status || no "status: $?" || return 1
  grep -q "\"$1\":\"$2\"[,}]" /tmp/status || no "status: not $2: $(grep -o "\"$1\":[^,}]*" /tmp/status)"
}

# How the process has the cache mapped: a line for each mapping, its address, its page size in KiB and its flags.
mappings() {
  awk -v path="$cache" '
    /^[0-9a-f]+-[0-9a-f]+ / { at = $NF == path ? $1 : "" }
    at && /^KernelPageSize:/ { size = $2 }
    at && /^VmFlags:/ { sub("^VmFlags: ", ""); print at, size, $0 }' /proc/$pid/smaps
}

# So many bytes, all with MAP_SYNC, so that the file system's own metadata is durable when a page is. What a cache has grown by the
# kernel may show as one mapping with what was there.
maps_are_synchronous() { # MIB
  mappings >/tmp/maps
  bytes=0
  while read -r range _; do
    bytes=$((bytes + 0x${range#*-} - 0x${range%-*}))
  done </tmp/maps
  [ $bytes = $(($1 << 20)) ] || no "$bytes bytes are mapped, not $1 MiB: $(cat /tmp/maps)" || return 1
  [ "$(grep -c ' sf\( \|$\)' /tmp/maps)" = "$(wc -l </tmp/maps)" ] || no "without MAP_SYNC: $(cat /tmp/maps)"
}

# Each line of what has failed is refused, alone: exit status and line.
refused() { # WORDS COMMAND...
  words=$1
  shift
  "$@" >/tmp/said 2>&1
  code=$?
  grep '^pcache\|^fio: pcache' /tmp/said >/tmp/line
  [ $code != 0 ] || no "not refused: $*" || return 1
  [ "$(wc -l </tmp/line)" = 1 ] && grep -q "$words" /tmp/line || no "$*: not \"$words\" in one line: $(cat /tmp/said)"
}

# ---- Tests ----

test_devdax() {
  make_devdax && new_backing 1G || return 1
  write_all --stats_file=/tmp/stats || return 1 # the blank device is formatted
  grep -q '"pmem_kind": *"devdax"' /tmp/stats || no "its kind: $(cat /tmp/stats)" || return 1
  is_dirty && read_all && is_dirty || return 1
  fio_is_good --name=reader --readonly --rw=read --bs=64k --size=96m --verify=0 || return 1
  $ctl status "$cache" || no "pcachectl status: $?" || return 1
  $ctl export "$cache" --backing $backing --to /pm/expected || no "export: $?" || return 1
  $ctl writeback "$cache" --to $backing && cmp /pm/expected $backing || no "writeback has not written all" || return 1
  is_clean
}

test_devdax_killed() {
  make_devdax && new_backing 1G || return 1
  seed=0
  for how in --end_fsync=1 --sync=1 --fsync=16; do # by FLUSH, FUA, both beside each other
    seed=$((seed + 1))
    start_fio $how --randseed=$seed && has_gone_on && field_is pmem_kind devdax || return 1
    mappings >/tmp/maps
    grep -q '00000-[^ ]* 2048 ' /tmp/maps || no "not mapped in pages of 2 MiB: $(cat /tmp/maps)" || return 1
    kill_fio
    is_dirty && read_first --randseed=$seed || return 1
  done
  note "$(cat /tmp/maps)"
}

test_unflushed() { # that the tests of SIGKILL can fail: without a FLUSH it is gone
  make_devdax && new_backing 1G || return 1
  start_fio --size=100k && has_gone_on || return 1
  kill_fio
  is_sound . || return 1
  ! read_first --size=100k 2>/tmp/fio.err || no "not flushed, and there all the same" || return 1
  grep -q 'verify: bad' /tmp/fio.err || no "fio has failed otherwise: $(cat /tmp/fio.err)"
}

on_file_system() { # ext4 or xfs
  make_file_system "$1" && new_backing 1G || return 1
  cache=/mnt/cache
  fallocate -l 700M $cache || no "fallocate: $?" || return 1
  write_all --stats_file=/tmp/stats || return 1
  grep -q '"pmem_kind": *"fsdax"' /tmp/stats || no "its kind: $(cat /tmp/stats)" || return 1
  is_dirty && read_all || return 1
  start_fio --end_fsync=1 --data_crc=media && has_gone_on && field_is pmem_kind fsdax && maps_are_synchronous 700 || return 1
  kill_fio
  is_dirty && read_first || return 1
  note "$(cat /tmp/maps)"
  check_file_system
}
test_ext4() { on_file_system ext4; }
test_xfs() { on_file_system xfs; }

test_persist() { # each method that the CPU has, and what auto has measured; the others are refused
  make_devdax && new_backing 1G || return 1
  seed=0
  tried=
  for method in flushcache clflushopt clwb movdir64b auto; do
    seed=$((seed + 1))
    case $method in
      flushcache | auto) ;;
      *)
        grep -qw $method /proc/cpuinfo || {
          refused "persist=$method: this CPU does not have it" write_all --persist=$method || return 1
          continue
        }
        ;;
    esac
    tried="$tried $method"
    start_fio --end_fsync=1 --persist=$method --randseed=$seed && has_gone_on || return 1
    [ $method = auto ] && field_is pmem_kind devdax || field_is persist $method || return 1
    kill_fio
    is_dirty && read_first --persist=$method --randseed=$seed || return 1
  done
  $ctl calibrate "$cache" || no "calibrate: $?" || return 1
  is_dirty && read_first --persist=auto --randseed=$seed || return 1
  note "tried$tried"
}

segments() { # NAME in the status of a cache that is attached
  $ctl status "$cache" --json >/tmp/status
  sed -n "s/.*\"segments\":{[^}]*\"$1\":\([0-9]*\).*/\1/p" /tmp/status
}

# A cache of 31 segments grows while fio writes more than it holds. The rest of the write is there, and so is what was before.
grows_while_attached() { # SEGMENTS afterwards, OPTION... of pcachectl resize
  more=$1
  shift
  write_all --offset=880m || return 1
  start_fio --end_fsync=1 --size=640m --bs=256k --randseed=9 && is_attached || return 1
  $ctl resize "$cache" "$@" >/tmp/resized 2>&1 || no "resize: $?: $(cat /tmp/resized)" || return 1
  grep -q " $more segments of 16 MiB (was 31), in use from now on" /tmp/resized || no "resize: $(cat /tmp/resized)" || return 1
  has_gone_on || return 1
  used=$(segments used)
  [ "$used" -gt 31 ] || no "it has grown, and $used segments are in use" || return 1
  note "31 to $more segments, $used in use"
}
is_all_there() { # after grows_while_attached()
  kill_fio
  is_dirty && read_first --size=640m --bs=256k --randseed=9 && read_all --offset=880m || return 1
  [ "$($ctl status "$cache" --json | sed -n 's/.*"total":\([0-9]*\).*/\1/p')" = "$more" ] || no "not $more segments"
}

grows_on_file_system() {
  make_file_system "$1" && new_backing 1G || return 1
  cache=/mnt/cache
  fallocate -l 512M $cache && grows_while_attached 63 --size 1G && maps_are_synchronous 1024 || return 1
  refused 'an attached cache is not made smaller' $ctl resize $cache --size 512M || return 1
  is_all_there && check_file_system
}
test_resized_ext4() { grows_on_file_system ext4; }
test_resized_xfs() { grows_on_file_system xfs; }

test_full_file_system() { # the cache goes on in its old size
  make_file_system ext4 && new_backing 1G || return 1
  cache=/mnt/cache
  fallocate -l 512M $cache || return 1
  start_fio --end_fsync=1 && has_gone_on || return 1
  refused 'cannot allocate' $ctl resize $cache --size 2G || return 1
  [ "$(stat -c %s $cache)" = 536870912 ] || no "the file has $(stat -c %s $cache) bytes" || return 1
  [ "$(segments total)" = 31 ] || no "$(segments total) segments" || return 1
  kill_fio
  is_dirty && read_first && check_file_system
}

test_resized_devdax() { # a smaller cache on it to all of the device; the device itself cannot grow
  make_devdax && new_backing 1G || return 1
  $ctl format "$cache" --backing $backing >/tmp/formatted || no "format: $?" || return 1
  all=$(sed -n 's/.* \([0-9]*\) segments of 16 MiB.*/\1/p' /tmp/formatted)
  $ctl resize "$cache" --size 512M || no "resize to 512 MiB: $?" || return 1
  grows_while_attached "$all" || return 1
  refused 'cannot be made larger' $ctl resize "$cache" --size 2G || return 1
  refused 'an attached cache is not made smaller' $ctl resize "$cache" --size 512M || return 1
  is_all_there
}

test_resized_offline() { # with dirty data in it
  make_devdax && new_backing 1G || return 1
  $ctl format "$cache" --backing $backing >/tmp/formatted || no "format: $?" || return 1
  all=$(sed -n 's/.* \([0-9]*\) segments of 16 MiB.*/\1/p' /tmp/formatted)
  write_all || return 1
  for size in 512M 600M "$((all * 16 + 1))M"; do
    $ctl resize "$cache" --size $size && is_dirty && read_all || no "devdax to $size: $(cat /tmp/why)" || return 1
  done
  refused 'cannot be made larger' $ctl resize "$cache" --size 2G || return 1
  make_file_system ext4 || return 1
  cache=/mnt/cache
  $ctl format $cache --size 512M --backing $backing && write_all || return 1
  for size in 1G 600M; do
    $ctl resize $cache --size $size && is_dirty && read_all || no "the file to $size: $(cat /tmp/why)" || return 1
  done
  check_file_system
}

test_refusals() {
  make_devdax && new_backing 1G || return 1
  write_all || return 1
  start_fio --end_fsync=1 && has_gone_on || return 1
  refused 'in use' $ctl check "$cache" || return 1
  kill_fio
  devdax=$cache
  # What is no pmem, or cannot be mapped; nothing there is touched.
  namespace fsdax namespace1.0 --map=mem || return 1
  disk=/dev/$(sed -n 's/.*"blockdev":"\(pmem[0-9.]*\)".*/\1/p' /tmp/namespace)
  noise 16384 /tmp/noise && dd if=/tmp/noise of="$disk" bs=1M oflag=direct 2>/dev/null
  for cache in "$disk" /dev/zero; do
    refused "cache device $cache: is a" write_all || return 1
    refused "cache device $cache: is a" write_all --emulate_pmem=1 || return 1
  done
  cmp -n 67108864 /tmp/noise "$disk" || no "$disk was refused, and has changed" || return 1
  cache=$devdax
  refused 'a device cannot be made larger' write_all --cache_size=1g --emulate_pmem=1 || return 1
  refused 'a device cannot be made larger' $ctl format "$cache" --force --size 1G || return 1
  refused 'holds a pcache' $ctl format "$cache" || return 1
  is_dirty && read_all || return 1
  make_file_system ext4 -odax=never || return 1
  cache=/mnt/cache
  fallocate -l 600M $cache || return 1
  before=$(stat -c '%s %b %Y' $cache)
  refused 'the file is not on a DAX file system' write_all || return 1
  [ "$(stat -c '%s %b %Y' $cache)" = "$before" ] || no "refused, and the file has changed" || return 1
  cmp -n 629145600 /dev/zero $cache || no "refused, and the file was written" || return 1
  write_all --emulate_pmem=1 --stats_file=/tmp/stats && grep -q '"pmem_kind": *"emulated"' /tmp/stats || no "emulated" || return 1
  check_file_system
}

test_two_sides() { # the front is killed: pcached writes back to the end, and the disk then has all
  make_devdax && new_backing 1G || return 1
  $ctl format "$cache" --backing $backing || no "format: $?" || return 1
  start_fio --role=front --backend=auto --end_fsync=1 && has_gone_on || return 1
  $ctl status "$cache" || no "status: $?" || return 1
  $ctl list >/tmp/listed
  [ "$(wc -l </tmp/listed)" = 2 ] && grep -q 'backend' /tmp/listed || no "not two sides: $(cat /tmp/listed)" || return 1
  kill_fio # pcached writes back to the end, and ends
  for _ in $(seq 1200); do
    $ctl list 2>/dev/null | grep -q . || break
    usleep 50000
  done
  is_clean && read_first || return 1
  $pcached "$cache" --backing $backing --once || no "pcached --once: $?" || return 1
  is_clean
}

mkdir -p /mnt /pm
mount -t tmpfs -o size=1500m tmpfs /pm
judge_all devdax devdax_killed unflushed ext4 xfs persist resized_ext4 resized_xfs full_file_system resized_devdax resized_offline \
  refusals two_sides
