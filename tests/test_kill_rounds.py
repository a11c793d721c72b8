# SPDX-License-Identifier: GPL-2.0-or-later
"""kill_rounds.py for a few rounds of each kind, and that its judge notices what it is there for."""

from array import array

import pytest

from kill_rounds import KIND_FLUSH, RECORD, RECORDS, DEPTHS, Failed, Judge, Round, Run, expand, words_of
from measure.libpcache import FUA, MIB, PcacheError

SECTORS = MIB // 512


@pytest.mark.parametrize("gc_percent,order", [(0, "strict"), (70, "strict"), (70, "relaxed")])
@pytest.mark.parametrize("data_crc", [0, 1])
def test_killed_under_overload(cache_file, shm, disk, data_crc, gc_percent, order):
    """Nothing durable is lost and no sector is torn, as far as SIGKILL shows it.

    Hazards dirty-tail-ahead-of-disk, fua-forgotten, reuse-before-durable, dead-key-references,
    superseder-not-durable, failed-move-passed."""
    run = Run(shm, disk, seed=f"{data_crc} {gc_percent}", data_crc=data_crc, gc_percent=gc_percent,
              size=640 * MIB, longest=1.6, cache_path=cache_file, backing_order=order)
    lines = []
    assert run.rounds(5, lines.append) == 5, "\n".join(lines)
    assert run.drained == 1


@pytest.mark.parametrize("mode,data_crc", [("writethrough", 1), ("writearound", 0), ("passthrough", 0),
                                           ("switching", 0)])
def test_killed_in_other_modes(cache_file, shm, disk, mode, data_crc):
    """What was acknowledged on the backing device is in the backing file alone.

    Hazards acknowledged-before-device, superseded-not-on-device."""
    run = Run(shm, disk, seed=mode, data_crc=data_crc, size=640 * MIB, longest=1.6, cache_path=cache_file,
              cache_mode=mode)
    lines = []
    assert run.rounds(3, lines.append) == 3, "\n".join(lines)


def test_only_what_never_was_a_cache_may_be_blank(shm, disk):
    """A process may be killed before it has made one. A superblock that is lost later must not go unnoticed."""
    nothing, something = Noted().round(True), Noted((5, 0, 4096, 0, 6)).round(True)
    run = Run(shm, disk, size=4 * MIB, cache_mode="writethrough")
    run.judge_backing(nothing)
    with pytest.raises(PcacheError, match="blank"):
        run.judge_backing(something)
    run.round = 1
    with pytest.raises(PcacheError, match="blank"):
        run.judge_backing(nothing)


class Noted:
    """A log as the writers leave it: of writer 0, requests given as (before, off, length, kind, after)."""

    def __init__(self, *records):
        self.words = array("Q", bytes(8 * (512 + len(DEPTHS) * RECORDS * RECORD)))
        for number, (before, off, length, kind, after) in enumerate(records):
            at = 512 + number * RECORD
            self.words[at:at + 4] = array("Q", [before, off, length | kind << 32, after])

    def round(self, all_durable=False):
        return Round(memoryview(self.words), all_durable)


def judged(records, changes, before=(), all_durable=False):
    """The judge's verdict on 1 MiB with some sectors' words changed."""
    judge = Judge(MIB)
    for sector, tag in before:
        judge.state[sector] = words_of(sector, 1, tag)[0]
    content = expand(judge.state)
    for sector, word in changes:
        content[sector * 64:sector * 64 + 64] = array("Q", [word]) * 64
    return judge.check([(0, content)], Noted(*records).round(all_durable))


def word(sector, tag):
    return words_of(sector, 1, tag)[0]


FLUSHED = [(5, 0, 4096, 0, 6), (7, 0, 0, KIND_FLUSH, 8)]


@pytest.mark.parametrize("records,changes,text", [
    (FLUSHED, [], "of an earlier round; the newest durable write of it is 5"),
    (FLUSHED, [(n, word(n, 5)) for n in range(7)], "sector 7 holds write 0 of an earlier round"),
    ([(5, 0, 512, FUA, 6)], [], "the newest durable write of it is 5"),
    ([(5, 0, 512, 0, 6), (7, 0, 512, FUA, 8)], [(0, word(0, 5))], "holds write 5, completed at 6"),
    ([(5, 0, 512, 0, 6)], [(1, word(1, 5))], "which did not write it"),
    ([(5, 0, 512, 0, 6)], [(1, word(0, 5))], "sector 1 holds the data of sector 0"),
    ([(5, 0, 512, 0, 6)], [(0, word(0, 4))], "sector 0 holds write 4 of an earlier round, it held 0"),
])
def test_judge_refuses(records, changes, text):
    with pytest.raises(Failed, match=text):
        judged(records, changes)


def test_judge_refuses_a_torn_sector():
    judge = Judge(MIB)
    content = expand(judge.state)
    content[3 * 64 + 63] = word(3, 5)
    with pytest.raises(Failed, match="sector 3 is torn"):
        judge.check([(0, content)], Noted((5, 0, 4096, 0, 6)).round())


def test_judge_refuses_what_was_acknowledged_on_the_device_alone():
    """Without a flush; as judge_backing() asks."""
    records = [(5, 0, 512, 0, 6), (7, 512, 512, 0, 0)]
    assert judged(records, [(0, word(0, 5)), (1, word(1, 7))], all_durable=True) == 1
    assert judged(records, []) == 0
    with pytest.raises(Failed, match="the newest durable write of it is 5"):
        judged(records, [], all_durable=True)


@pytest.mark.parametrize("records,changes,others", [
    (FLUSHED, [(n, word(n, 5)) for n in range(8)], 0),
    ([(5, 0, 512, 0, 6)], [], 0),                                        # never flushed: lost
    ([(5, 0, 512, 0, 6)], [(0, word(0, 5))], 1),                         # or not
    ([(5, 0, 512, 0, 0), *FLUSHED[1:]], [], 0),                          # in flight when the flush began
    ([(5, 0, 512, 0, 9), (7, 0, 0, KIND_FLUSH, 8)], [], 0),
    ([(5, 0, 512, 0, 6), (7, 0, 0, KIND_FLUSH, 0)], [], 0),              # the flush has not completed
    ([(5, 0, 512, FUA, 9), (7, 0, 512, FUA, 8)], [(0, word(0, 7))], 1),  # in flight together: either
    ([(5, 0, 512, FUA, 9), (7, 0, 512, FUA, 8)], [(0, word(0, 5))], 0),
])
def test_judge_allows(records, changes, others):
    assert judged(records, changes) == others
