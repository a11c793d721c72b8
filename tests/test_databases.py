# SPDX-License-Identifier: GPL-2.0-or-later
"""SQLite and PostgreSQL on a cache, by nbdkit, nbdfuse and a loop device: some rounds of db_rounds.py."""

import pytest

import databases
import db_rounds
from databases import judge_numbers
from device_stack import MIB, Failed, good, missing

DATABASES = [dict(db="sqlite", journal="delete"), dict(db="sqlite", journal="wal"), dict(db="postgresql", scale=1)]
OPTIONS = [dict(data_crc=0, gc_percent=70), dict(data_crc=1, gc_percent=0, backing_order="relaxed")]
CASES = list(zip(DATABASES, (OPTIONS[0], OPTIONS[1], OPTIONS[1])))


def run_of(disk, shm, **options):
    why = missing() or databases.missing_for(options["db"])
    if why:
        pytest.skip(why)
    return db_rounds.Run(disk, shm, longest=1, size=384 * MIB, **options)


@pytest.mark.parametrize("database,options", CASES, ids=str)
def test_what_is_committed_outlives_kills(disk, shm, database, options):
    said = []
    assert run_of(disk, shm, **database, **options).rounds(2, said.append) == 2, said


@pytest.mark.parametrize("database,words", zip(DATABASES, ["is the last", "is the last", "commits|is the last"]),
                         ids=str)
def test_a_cache_that_goes_back_is_noticed(disk, shm, database, words):
    """So the rounds can fail: after the second kill the cache and the disk are as the first has left them, which is
    sound in itself."""
    def copy(source, target):
        for path in (disk / "disk", shm / "cache"):
            good("cp", "--sparse=always", f"{path}{source}", f"{path}{target}")

    run = run_of(disk, shm, **database)
    try:
        run.step(between=lambda: copy("", ".old"))
        with pytest.raises(Failed, match=words):
            run.step(between=lambda: copy(".old", ""))
    finally:
        run.end()


@pytest.mark.parametrize("numbers,acknowledged,begun,words", [
    ([1, 2], 3, 4, "2 is the last"), ([1, 2, 3, 4], 2, 3, "4 is the last"), ([1, 3], 1, 3, "but 2 is not"),
    ([2, 3], 1, 3, "but 1 is not"), ([], 1, 2, "0 is the last")])
def test_the_judge_refuses(numbers, acknowledged, begun, words):
    with pytest.raises(Failed, match=words):
        judge_numbers(numbers, acknowledged, begun)


def test_the_judge_allows_what_was_in_flight():
    assert [judge_numbers(numbers, 2, 3) for numbers in ([1, 2], [1, 2, 3])] == [2, 3]
    assert judge_numbers([], 0, 1) == 0
