# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-microbench: what cannot be run is one line and exit status 2."""

import pytest

from test_microbench import run

CASE = "--count=read_hit/size:4096/crc:0"


@pytest.mark.parametrize("arguments, text", [
    ([CASE, "--operations=-1"], "--operations=-1: expected a number, 1 or more"),
    ([CASE, "--operations= 1"], "expected a number, 1 or more"),
    ([CASE, "--operations=100000001"], "no more than 100000000"),
    ([CASE, "--operations=99999999999999999999"], "no more than 100000000"),
    (["--benchmark_filter=("], "--benchmark_filter=(: expected a regular expression: "),
    (["--benchmark_filter=-["], "--benchmark_filter=-[: expected a regular expression: "),
    (["--benchmark_filter=nothing_such"], "Failed to match any benchmarks against regex: nothing_such"),
    (["--benchmark_filter=-.*"], "Failed to match any benchmarks"),
    (["--foo"], "--foo: unknown argument"),
])
def test_what_cannot_be_run_is_named(arguments, text):
    done = run(*arguments, ok=False)
    assert done.returncode == 2 and text in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
