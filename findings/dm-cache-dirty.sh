#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/dm-cache-dirty.sh   cache_writeback and cache_dump see no dirty block in metadata of version 2
#
# Expected: cache_writeback(8): it "writes back dirty data to the data device (origin)";
# cache_dump(8): its XML "can be fed into cache_restore in order to put it back"; cache_restore has
# --metadata-version 1 or 2.
# Seen: version 2 (what the kernel calls metadata2) keeps the dirty flags in a bitset of its own.
# cache_restore writes it, and the others look for a flag of version 1: with a dirty block in the
# cache, cache_writeback writes back "0/0 blocks" and exits with 0, and cache_dump says
# dirty="false".
# Hurts: who takes such a cache apart after cache_writeback loses all dirty data, and who dumps and
# restores its metadata has a cache that forgets to write it back.
# Guard: our format is another. tests/test_ctl_writeback.py compares the backing device's bytes
# after a writeback, and does not go by the exit status alone.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages thin-provisioning-tools=0.9.0-2
unpacked cache_check -V

cat >cache.xml <<'END'
<superblock uuid="" block_size="128" nr_cache_blocks="16" policy="smq" hint_width="4">
  <mappings>
    <mapping cache_block="0" origin_block="7" dirty="true"/>
  </mappings>
  <hints>
  </hints>
</superblock>
END
sed 's/dirty="true"/dirty="false"/' cache.xml >clean.xml
seen=
for version in 1 2; do
  for name in cache clean; do
    truncate -s 4m "$name$version"
    unpacked cache_restore -q --metadata-version $version -i $name.xml -o $name$version
  done
  ! cmp -s cache$version clean$version || { echo "the flag was not stored" >&2 && exit 1; }
  unpacked cache_check -q cache$version
  head -c 1m /dev/zero | tr '\0' F >fast # 16 blocks of 64 KiB
  truncate -s 0 origin && truncate -s 1m origin
  unpacked cache_writeback --metadata-device cache$version --origin-device origin --fast-device fast \
    --no-metadata-update >log
  seen+="version $version: dump says $(unpacked cache_dump cache$version | grep -o 'dirty="[a-z]*"'),"
  seen+=" $(tr -d '\0' <origin | wc -c) bytes written back; "
done
judge 'dump says dirty="true", 65536 bytes written back; each' \
  'version 1: dump says dirty="true", 65536 bytes written back; '\
'version 2: dump says dirty="false", 0 bytes written back; ' "$seen"
