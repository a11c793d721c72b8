# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl dump: what an image holds, record by record."""

import hashlib

import pytest

from ctl import UNTRUSTED
from measure.libpcache import MIB
from support import (PAGE, crc32c, golden_case, golden_damaged, golden_images, newest_tails, patch, peek, stamp,
                     wait_until)

DATA_AREA = 3 * PAGE  # of a segment


def of_type(records, name):
    return [record for record in records if record["type"] == name]


@pytest.mark.parametrize("image", golden_images())
def test_positions(ctl, golden, image):
    with golden.untouched(image["name"]) as pair:
        records = ctl.jsons("dump", pair.cache_path, "--backing", pair.backing_path,
                            "--what", "tails,superblock,info")
        text = ctl.run("dump", pair.cache_path, "--backing", pair.backing_path, "--what", "tails").stdout
        tails = newest_tails(pair.cache_path)
    positions = {record["type"]: record["position"] for record in records if "position" in record}
    heads = {(image[name] or "0:0").split()[-3:][0]
             for name in ("status_before_stop_or_crash", "status_after_reattach")}
    assert positions == tails | {"key_head": positions["key_head"]} and positions["key_head"] in heads
    for name, pos in positions.items():
        assert f"{name}: position={pos}" in text
    assert of_type(records, "superblock")[0]["segments"] == of_type(records, "cache_info")[0]["segments"] == 31
    assert of_type(records, "cache_info")[0]["data_crc"] == ("crcon" in image["name"])


@pytest.mark.parametrize("name", ["a_empty_crcoff", "b_mixed_crcoff", "c_mixed_crcon", "d_crash_crcoff"])
def test_keys_are_the_logical_device(ctl, golden, name):
    """The keys, applied in the order of the dump over the backing device, give what the kernel read."""
    with golden.untouched(name) as pair:
        records = ctl.jsons("dump", pair.cache_path, "--backing", pair.backing_path)
        content = bytearray(pair.backing_path.read_bytes())
        at = {segment["id"]: segment["at"] for segment in of_type(records, "segment")}
        keys = of_type(records, "key")
        with open(pair.cache_path, "rb") as cache:
            for n, key in enumerate(keys):
                segment, off = (int(part) for part in key["data"].split(":"))
                cache.seek(at[segment] + DATA_AREA + off)
                data = cache.read(key["len"])
                content[key["off"]:key["off"] + key["len"]] = data
                if n % 500 == 0 and "crcon" in name:
                    assert crc32c(data) == key["data_crc"]
    assert hashlib.sha256(content).hexdigest() == golden.entry(name)["logical_sha256_kernel"]
    assert sum(kset.get("keys", 0) for kset in of_type(records, "kset")) == len(keys)
    assert sum(segment["live_keys"] for segment in of_type(records, "segment")) == len(keys)
    assert not any(kset.get("same_epoch") for kset in of_type(records, "kset")), "the kernel target knows no epochs"


def test_epochs(ctl, pair):
    """A kset says whether a barrier may be between it and the one before it; each attach begins with one."""
    for _ in range(2):
        with pair.open(writeback_interval_ms=3_600_000) as cache:
            for _ in range(2):
                for off in (0, 4 * MIB, 8 * MIB):  # not one kset: more than 1 MiB of data
                    cache.write(off, bytes(MIB))
                cache.flush()
    ksets = of_type(ctl.jsons("dump", pair.cache_path, "--what", "ksets"), "kset")
    assert [kset["same_epoch"] for kset in ksets if "keys" in kset] == [False, True, True] * 4


def test_range_tells_where_sectors_live(ctl, pair):
    """Dirty, clean and not cached; `at` is where the bytes are in the cache file."""
    with pair.open(writeback_interval_ms=3_600_000) as cache:
        cache.write(MIB, stamp(MIB, 8192, 5))
        cache.read(2 * MIB, 4096)
        wait_until(lambda: cache.status["log"]["key_head"] != "0:0")
    pieces = ctl.jsons("dump", pair.cache_path, "--range", "1020K+2M")
    assert [(piece["off"], piece["state"]) for piece in pieces if piece["state"] == "dirty"] == [(MIB, "dirty")]
    assert any(piece["state"] == "clean" and piece["off"] <= 2 * MIB < piece["off"] + piece["len"]
               for piece in pieces)
    end = 1020 * 1024
    for piece in pieces:
        assert piece["off"] == end and piece["len"] > 0
        end += piece["len"]
        if piece["state"] != "not cached":
            tag = 5 if piece["state"] == "dirty" else 0
            assert peek(pair.cache_path, piece["at"], piece["len"]) == stamp(piece["off"], piece["len"], tag)
    assert end == 1020 * 1024 + 2 * MIB
    assert ctl.run("dump", pair.cache_path, "--range", "1M+8K").stdout.startswith("range: off=1048576 len=8192 ")


@pytest.mark.parametrize("text", ["1M", "+", "x+512", "512+", "+512", "1+512", "0+0", "0+513", "0+32M", "16M+512",
                                  "-512+512", "0+-512", "18446744073709551104+1024", "99999999999999999999+512",
                                  "0+512+512", "0+512x"])
def test_wrong_range(ctl, pair, text):
    pair.open().close()
    assert text in ctl.refused("dump", pair.cache_path, f"--range={text}")


def test_parts(ctl, pair):
    with pair.open() as cache:
        cache.write(0, stamp(0, PAGE, 1))
    types = {"superblock": {"superblock"}, "info": {"cache_info"}, "identity": {"identity"},
             "persist": {"persist"}, "tails": {"key_tail", "dirty_tail", "key_head"}, "segments": {"segment"},
             "ksets": {"kset"}, "keys": {"key"}}
    for part, expected in types.items():
        assert {record["type"] for record in ctl.jsons("dump", pair.cache_path, "--what", part)} == expected
    everything = {record["type"] for record in ctl.jsons("dump", pair.cache_path)}
    assert everything == set().union(*types.values())
    assert {r["type"] for r in ctl.jsons("dump", pair.cache_path, "--what", "info,keys")} == {"cache_info", "key"}
    for wrong in ("frames", "", "keys,frames"):
        ctl.refused("dump", pair.cache_path, f"--what={wrong}")


@pytest.mark.parametrize("case", golden_damaged(attach="refuse"))
def test_damaged_image(ctl, golden, case):
    """What can be read is printed, with exit status 2 and the reason."""
    with golden.untouched_damaged(case) as pair:
        records = ctl.jsons("dump", pair.cache_path, "--backing", pair.backing_path, code=UNTRUSTED)
        refused = ctl.refused("dump", pair.cache_path, "--backing", pair.backing_path, "--range", "0+4K",
                              code=UNTRUSTED)
    assert "cannot be attached" in refused
    assert len(of_type(records, "key")) > 3000 and len(of_type(records, "segment")) >= 8


def test_damage_is_named_where_it_is(ctl, golden):
    with golden.untouched_damaged(golden_case("kset-crc-mid-log")) as pair:
        lost = [kset for kset in ctl.jsons("dump", pair.cache_path, "--what", "ksets", code=UNTRUSTED)
                if "damage" in kset]
    assert [(kset["position"], kset["lost_to"]) for kset in lost] == [("0:60120", "0:60424")]
    with golden.untouched_damaged(golden_case("key-segment-out-of-range")) as pair:
        keys = ctl.jsons("dump", pair.cache_path, "--what", "keys", code=UNTRUSTED)
    assert [(key["kset"], key["index"]) for key in keys if key["state"] == "invalid"] == [("0:38000", 0)]


@pytest.mark.damages_image
def test_unreadable_superblock_is_shown(ctl, pair):
    pair.open().close()
    patch(pair.cache_path, PAGE + 16, b"\x77")
    records = ctl.jsons("dump", pair.cache_path, "--what", "superblock", code=UNTRUSTED)
    assert "crc" in records[0]["state"]
