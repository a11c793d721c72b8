#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/fio-json.sh   --output-format=json is not always JSON
#
# Expected: HOWTO, "JSON output": "intended to be both human readable and convenient for automated
# parsing". The one exception that is documented is --status-interval.
# Seen: a tab in a description goes into a JSON string as it is, which RFC 8259 (section 7) forbids;
# a strict parser refuses the whole result. And notes, here that a synchronous engine has iodepth 1,
# precede the JSON on stdout.
# Hurts: the run is over, it was long, and its result cannot be read, because of a comment or of a
# hint.
# Guard: fio_value.cc refuses control characters; the harness uses --output=FILE, into which the
# notes do not go; where fio's stdout is read, we begin at the first `{`.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages fio=3.33-3
unpacked fio --version

is_json() { python3 -c 'import json, sys; json.load(sys.stdin)' 2>error && echo yes || echo no; }
job() {
  unpacked fio --name=job --ioengine=psync --size=4k --rw=read --filename=data --output-format=json "$@"
}
truncate -s 4k data
seen="plain: $(job | is_json)"
seen+=", tab: $(job --description=$'a\tb' | is_json)" && tail -1 error
seen+=", note: $(job --iodepth=4 | is_json)" && tail -1 error
job --iodepth=4 --output=file >/dev/null
seen+=", note with --output: $(is_json <file)"
judge "JSON, all four" "plain: yes, tab: no, note: no, note with --output: yes" "$seen"
