# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/check_includes: sources that include what their target does not link to are found, and the other way
round."""

import shutil
import subprocess

import pytest

from measure.libpcache import ROOT

SOURCES = shutil.ignore_patterns("*.py", "__pycache__", "*.html")


@pytest.fixture
def tree(tmp_path):
    """A copy of what is looked at."""
    for folder in ("core", "engine", "bench"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=SOURCES)
    shutil.copy(ROOT / "ARCHITECTURE.md", tmp_path)
    return tmp_path


def check(tree):
    """(exit status, its lines without the name)."""
    done = subprocess.run([ROOT / "scripts" / "check_includes", tree], capture_output=True, text=True, check=False,
                          timeout=60)
    return done.returncode, [line.removeprefix("check_includes: ") for line in done.stderr.splitlines()]


def put_include(path, include):
    """As the file's first line."""
    path.write_text(f"#include {include}\n" + path.read_text())


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_this_tree_is_right(tree):
    assert check(tree) == (0, [])


@pytest.mark.parametrize("file, include, of, target, where", [
    ("core/index/index.cc", '"keylog/key_log.h"', "pcache_keylog", "pcache_index", "core"),
    ("core/keylog/key_log.h", '"request/op_write.h"', "pcache_request", "pcache_keylog", "core"),
    ("core/format/replica.h", '"testing/memory_pmem.h"', "pcache_testing", "pcache_format", "core"),
    ("core/index/index_test.cc", '"testing/memory_pmem.h"', "pcache_testing", "pcache_index", "core"),
    ("core/pmem/pmem.cc", "<liburing.h>", "PkgConfig::URING", "pcache_pmem", "core"),
    ("core/keylog/key_log.cc", "<nlohmann/json.hpp>", "nlohmann_json::nlohmann_json", "pcache_keylog", "core"),
    ("engine/job.c", '"base/check.h"', "pcache_base", "${name}", "engine"),
    ("engine/ublk/serve.c", '"base/check.h"', "pcache_base", "pcache-ublk", "engine/ublk"),
    ("bench/sweep/plan.cc", '"base/check.h"', "pcache_base", "pcache-sweep", "bench"),
])
def test_an_include_of_what_is_not_linked_is_named(tree, file, include, of, target, where):
    put_include(tree / file, include)
    header = include[1:-1]
    assert check(tree) == (1, [f"{file}:1: includes {header} of {of}, which {target} does not link to "
                               f"({where}/CMakeLists.txt)"])


def test_a_test_may_include_what_its_module_says_it_needs(tree):
    put_include(tree / "core/format/codec_test.cc", '"testing/memory_pmem.h"')
    assert check(tree) == (0, [])


def test_a_link_that_nothing_includes_is_named(tree):
    replace(tree / "core/CMakeLists.txt", "pcache_module(index DEPENDS pcache_base)",
            "pcache_module(index DEPENDS pcache_base pcache_blockdev)")
    assert check(tree) == (1, ["core/CMakeLists.txt: pcache_index links to pcache_blockdev, of which none of its files "
                               "includes anything"])


def test_a_link_to_a_folder_that_is_listed_below_is_named(tree):
    put_include(tree / "core/index/index.cc", '"request/op_write.h"')
    replace(tree / "core/CMakeLists.txt", "pcache_module(index DEPENDS pcache_base)",
            "pcache_module(index DEPENDS pcache_base pcache_request)")
    assert check(tree) == (1, ["core/CMakeLists.txt: pcache_index links to pcache_request, which ARCHITECTURE.md lists "
                               "below it"])


def test_a_folder_without_a_target_is_named(tree):
    (tree / "core" / "more").mkdir()
    (tree / "core" / "more" / "more.cc").touch()
    assert check(tree) == (1, ["core/more: no target of core/CMakeLists.txt is known to have it"])


def test_a_type_of_cstdint_without_it_is_named(tree):
    replace(tree / "core/inspect/finding.h", "#include <cstdint>\n", "")
    status, lines = check(tree)
    assert status == 1 and "core/inspect/finding.h: names types of <cstdint>, and does not include it" in lines
