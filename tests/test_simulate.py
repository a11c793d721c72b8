# SPDX-License-Identifier: GPL-2.0-or-later
"""bench/simulate.py: one thread is the closed form, more threads and more stripes are never slower than they should be,
and what was measured is met."""

import dataclasses
import re

import pytest

from measure import lock_model
from measure.libpcache import ROOT
from measure.lock_model import KEYS, Machine, Model, one_thread, stripe_number


HERE = Machine()
LOCKS_ALONE = dataclasses.replace(HERE, ccx_store=1e9, ccx_load=1e9, socket=1e9)


def run(threads, stripes=128, shared=False, machine=LOCKS_ALONE, milliseconds=0.5, **more):
    return Model(machine, threads, stripes, shared, **more).run(milliseconds)


def test_stripes_are_those_of_the_code():
    """The code says it in C++: its constants, and some of its numbers."""
    text = (ROOT / "core/base/ids.h").read_text(encoding="utf-8")
    assert "kStripesOfRegion = 8, kRangesOfRegion = (128 << 20) / kRangeBytes" in text
    assert "kRangeBytes = 4u << 20" in text
    assert [stripe_number(n) for n in (0, 7, 8, 31, 32, 33, 64)] == [0, 7, 0, 7, 8, 9, 16]
    log = (ROOT / "core/format/media.h").read_text(encoding="utf-8")
    assert f"kKeysPerKset = {KEYS};" in log
    bias = (ROOT / "core/base/biased_mutex.h").read_text(encoding="utf-8")
    assert f"kFirstStreak = {lock_model.FIRST_STREAK}, kMostStreak = {lock_model.MOST_STREAK};" in bias


def test_one_thread_is_the_closed_form():
    for stripes in (16, 128, 1024):
        for shared in (False, True):
            assert run(1, stripes, shared, milliseconds=2) == pytest.approx(one_thread(HERE), rel=0.01)
    assert run(1, reads=100) == pytest.approx(1e3 / HERE.read, rel=0.01)
    assert run(1, kind="none") == pytest.approx(1e3 / HERE.bound_write, rel=0.01)
    assert run(1, kind="each") == pytest.approx(1e3 / (HERE.bound_write + HERE.drain), rel=0.01)


def test_ranges_of_their_own_scale_while_they_have_stripes_of_their_own():
    """16 threads have the 128 stripes to themselves; 32 share them and must fence. Long enough for a bias."""
    of_16 = run(16, milliseconds=2)
    assert of_16 == pytest.approx(16 * one_thread(HERE), rel=0.05)
    assert run(32) < 0.75 * 2 * of_16
    assert run(32, 1024, milliseconds=2) == pytest.approx(32 * one_thread(HERE), rel=0.1)


def test_more_threads_and_more_stripes_do_more():
    by_threads = [run(n, 1024, True) for n in (2, 4, 8, 16)]
    assert by_threads == sorted(by_threads)
    by_stripes = [run(32, n, True) for n in (4, 16, 64, 256)]
    assert by_stripes == sorted(by_stripes)
    assert run(2, shared=True) < run(2)


def test_lines_that_cost_more_cost_more():
    dear = dataclasses.replace(LOCKS_ALONE, line_near=200, line_far=400, line_socket=800)
    assert run(16, shared=True, machine=dear) < run(16, shared=True)
    assert run(16, machine=dear) == pytest.approx(run(16), rel=0.05)


def test_the_memory_is_a_cap():
    for threads, links in ((4, 1), (16, 2)):
        cap = links * HERE.ccx_store * 1e3 / lock_model.PAGE
        assert 0.95 * cap < run(threads, machine=HERE) <= 1.01 * cap


def test_readers_take_the_bias_away():
    assert run(2, shared=True, reads=50) < run(2, reads=50)


def test_what_was_measured_is_met_within_a_quarter():
    """Of its interval. It may fail when a sweep is kept: then Machine is of another one, see bench/simulate.py."""
    for what, model, seen in lock_model.validate(HERE, 0.5, 1):
        assert 0.8 < lock_model.off(model, seen) < 1.25, what


def test_how_far_off_an_interval():
    seen = lock_model.estimate([4, 5, 5, 5, 8])
    assert (seen.low, seen.high) == (4, 8)
    assert [lock_model.off(model, seen) for model in (2, 4, 6, 8, 10)] == [0.5, 1, 1, 1, 1.25]


def test_the_same_seed_gives_the_same_figures(capsys):
    def printed(*options):
        lock_model.main(["--threads=1,3", "--stripes=16,128", "--milliseconds=0.2", *options])
        return capsys.readouterr().out
    first = printed("--seed=7")
    assert printed("--seed=7") == first != printed("--seed=8")
    lines = first.splitlines()
    assert lines[1].split() == ["threads", "own", "16", "own", "128", "same", "16", "same", "128", "reads"]
    assert [len(re.findall(r"\d+\.\d", line)) for line in lines[2:4]] == [5, 5]
    assert len(lines) == 2 + 2 + 2 + 15


@pytest.mark.parametrize("wrong", ["--threads=0", "--threads=x", "--stripes=", "--reads=101"])
def test_wrong_use(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        lock_model.main([wrong])
    assert ended.value.code == 2 and wrong[2:].split("=", maxsplit=1)[0] in capsys.readouterr().err
