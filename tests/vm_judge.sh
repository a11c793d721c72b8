# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What tests/ublk_vm.sh and tests/dax_vm.sh share in their virtual machines, which read it in: each test is a function test_NAME
# that returns 0, or has said why not; a line for each of them, and the verdict as the last: `SUITE-vm: N of N tests have passed`.
# A suite defines clean_up(), which ends whatever a test has left, and show_logs(). VM_SUITE is its name, VM_TESTS those tests of
# it that were asked for, or nothing.

passed=0
run=0

say() { echo "$VM_SUITE-vm: $*"; }

no() { # WHY
  echo "$*" >/tmp/why
  return 1
}
note() { echo ": $*" >/tmp/note; }

judge() { # NAME
  run=$((run + 1))
  rm -f /tmp/why
  if "test_$1" >/tmp/test.log 2>&1; then
    passed=$((passed + 1))
    say "ok    $1$(cat /tmp/note 2>/dev/null)"
  else
    say "FAIL  $1: $(cat /tmp/why 2>/dev/null)"
    { cat /tmp/test.log && show_logs; } | sed 's/^/    /'
  fi
  rm -f /tmp/note
  clean_up
}

judge_all() { # NAME...
  for one in ${VM_TESTS:-$*}; do
    judge "$one"
  done
  say "$passed of $run tests have passed"
}

# Not busybox's own, which its shell would take.
dd() { /usr/bin/dd "$@"; }

# A file of so many blocks of 4 KiB that are not zeros.
noise() { # BLOCKS FILE
  dd if=/dev/urandom of="$2" bs=4k count="$1" 2>/dev/null
}

# It may end with 0 and have done nothing.
fio_is_content() { # LOG
  grep -q 'err= 0' "$1" && grep -q 'issued rwts' "$1" || no "fio: $(tail -n 3 "$1")"
}
