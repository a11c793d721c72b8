# SPDX-License-Identifier: GPL-2.0-or-later
"""What a compiler may drop without a trace, looked for in the release build's machine code."""

import re
import subprocess

import pytest

from measure.libpcache import BUILD

# Of a function, with all that is inlined into it: the line of the index that it will change, the data or the page
# table's line that it comes to next.
AHEAD = {
    "pcache::submit_write": {"prefetcht0", "prefetchnta"},
    "pcache::submit_read": {"prefetchnta"},
    "walk": {"prefetchnta"},
    "Queue::submit_batch": {"prefetcht0", "prefetchnta"},
    "IndexChanges::go_on": {"prefetcht0"},
    "Reclaim::forget_keys": {"prefetcht0"},
    "Settler::mark_clean": {"prefetcht0"},
    "WriteOut::prefetch": {"prefetchnta"},
}


@pytest.fixture(scope="module")
def code():
    return subprocess.run(["objdump", "-d", "-C", "--no-show-raw-insn", BUILD / "lib" / "libpcache.so"],
                          capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("function", AHEAD)
def test_asks_for_memory_ahead(code, function):
    """gcc once took a method that only prefetches for one that does nothing, and dropped its calls from read hits."""
    bodies = re.findall(rf"^[0-9a-f]+ <[^\n]*{function}\([^\n]*>:\n(.*?)(?:\n\n|\Z)", code, flags=re.M | re.S)
    assert bodies, f"{function}: not found"
    assert AHEAD[function] <= set(re.findall(r"prefetch\w+", "\n".join(bodies)))
