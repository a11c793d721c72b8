#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-client-empty.sh   a client whose server refuses the job ends with 0 and no results
#
# Expected: HOWTO, "Client / Server": a client runs the job on the server and shows what it reports; a job
# that cannot be run there is an error, as it is without a server (exit status 1).
# Seen: the server cannot load the job's ioengine, and the client shows its line. Then the client ends with
# exit status 0, and its JSON is a whole one with an empty client_stats.
# Hurts: a script that looks at the exit status takes a sweep that measured nothing for one that worked.
# Guard: pcache-sweep counts a host only with results of its own, and shows what its server said.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

cat >job.fio <<'END'
[job]
ioengine=no-such-engine
rw=read
size=4k
filename=/dev/zero
END
alone=0
unpacked fio --output-format=json --output=alone.json job.fio >/dev/null 2>&1 || alone=$?

words fio
port=$((20000 + RANDOM % 10000))
"${command[@]}" --server=127.0.0.1,$port >server.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT
listens() { grep -q ":$(printf %04X "$port") 00000000:0000 0A" /proc/net/tcp; }
for _ in $(seq 100); do
  listens && break
  sleep 0.1
done
listens || { echo "the server does not listen" >&2 && exit 2; }
status=0
unpacked fio --output-format=json --output=out.json --client=127.0.0.1,$port job.fio >client.log 2>&1 || status=$?
results=$(python3 - <<'END'
import json
text = open("out.json").read()
print(len(json.loads(text[text.index("\n{"):])["client_stats"]))
END
)
judge "alone: status 1; by the client: another than 0" "alone: status 1; by the client: status 0, 0 results" \
  "alone: status $alone; by the client: status $status, $results results"
