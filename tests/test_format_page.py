# SPDX-License-Identifier: GPL-2.0-or-later
"""core/format/FORMAT.md: its worked example is what the library writes."""

import re

from measure.libpcache import FUA, MIB, ROOT, Cache


def example_lines():
    """(offset, bytes) of each line of the example."""
    page = (ROOT / "core/format/FORMAT.md").read_text(encoding="utf-8")
    example = page.split("## A worked example")[1].split("```")[1]
    lines = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{8} ?){1,4})", example, re.MULTILINE)
    return [(int(offset, 16), bytes.fromhex(text)) for offset, text in lines]


def test_the_worked_example_is_what_is_written(backing, fresh_cache_file):
    with Cache(fresh_cache_file, backing, cache_size=512 * MIB, data_crc=1,
               writeback_interval_ms=3600000) as cache:
        for text in (b"pcache!!", b"second.\n"):
            cache.write(0x801000, text * 512, flags=FUA)
    lines = example_lines()
    assert len(lines) == 20
    with open(fresh_cache_file, "rb") as image:
        for offset, expected in lines:
            image.seek(offset)
            assert image.read(len(expected)).hex(" ", 4) == expected.hex(" ", 4), f"at {offset:#x}"
