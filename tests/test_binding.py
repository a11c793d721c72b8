# SPDX-License-Identifier: GPL-2.0-or-later
"""measure.libpcache: a signal that raises between any two of its lines leaves nothing that the library dies of."""

import subprocess
import sys

# Raises at the N-th line that is run in libpcache.py, for N from 1 on, until a whole use comes to its end: each in a
# process of its own, which the library ends when a cache is closed with a queue left.
CHILD = """
import os, sys
from measure import libpcache
from measure.libpcache import MIB, Cache

def use(cache_path, backing_path):
    cache = Cache(cache_path, backing_path, cache_size=512 * MIB)
    try:
        cache.write(0, bytes(4096))
        queue = cache.new_queue()
        assert queue.write_each([4096, 8192], bytes(4096)) == (2, 0)
        queue.close()
    finally:
        cache.close()

left = 0
def trace(frame, event, _arg):
    global left
    if frame.f_code.co_filename != libpcache.__file__:
        return None
    if event == "line":
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
    return trace

paths = f"{sys.argv[1]}/cache", f"{sys.argv[2]}/backing"
os.close(os.open(paths[1], os.O_CREAT | os.O_RDWR))
os.truncate(paths[1], 16 * MIB)
n, status = 0, 1
while status == 1:
    n += 1
    if os.path.exists(paths[0]):
        os.unlink(paths[0])
    child = os.fork()
    if child == 0:
        left = n
        sys.settrace(trace)
        try:
            use(*paths)
        except KeyboardInterrupt:
            os._exit(1)
        os._exit(0 if left > 0 else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(n)
sys.exit(f"line {n}: ended with {status}" if status else 0)
"""


def test_a_signal_at_any_line_leaves_no_queue_behind(shm, disk):
    done = subprocess.run([sys.executable, "-c", CHILD, shm, disk], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
