#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/nbdkit-foreground.sh   nbdkit --foreground ends with whoever started it, without --exit-with-parent
#
# Expected: nbdkit(1): "--exit-with-parent: If the parent process exits, we exit. [...] This option implies
# --foreground." So --foreground alone stays when its parent ends, as programs in the foreground do.
# Seen: it asks the kernel for a SIGTERM at its parent's end (PR_SET_PDEATHSIG) in either case. The kernel takes
# the thread that started it for the parent: a server that a thread of a program starts ends with the thread,
# while the program goes on. It ends in order, with 0, and says nothing.
# Hurts: a test, a launcher or a supervisor that starts a server in a thread loses it at some later time.
# Guard: the tests start servers in the main thread; without --foreground, nbdkit stays.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages nbdkit=1.32.5-1
unpacked nbdkit --version

words nbdkit
memory=$(echo root/usr/lib/*/nbdkit/plugins/nbdkit-memory-plugin.so)
cat >start <<'END_START'
#!/bin/bash
# start PIDFILE COMMAND...: starts it, waits until it serves, and ends.
pidfile=$1
shift
"$@" --pidfile "$pidfile" >/dev/null 2>&1 &
for ((i = 0; i < 100; i++)); do [ -s "$pidfile" ] || sleep 0.1; done
[ -s "$pidfile" ]
END_START
chmod +x start

after() { # NAME OPTION...: whether the server is there a second after its parent has ended
  local name=$1
  shift
  ./start "$work/$name.pid" "${command[@]}" --unix "$work/$name.socket" "$@" "$memory" 1M
  sleep 1
  local pid
  pid=$(cat "$name.pid")
  # A process that nobody has waited for has a number still, and no command.
  if grep -q . "/proc/$pid/cmdline" 2>/dev/null; then echo stays && kill "$pid"; else echo gone; fi
}
seen="foreground: $(after one --foreground); exit-with-parent: $(after two --exit-with-parent)"
judge "foreground: stays; exit-with-parent: gone" "foreground: gone; exit-with-parent: gone" "$seen"
