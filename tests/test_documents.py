# SPDX-License-Identifier: GPL-2.0-or-later
"""core/base/MUTANTS.md against mutants, tests and citations; what a document or comment refers to is in the tree.

And README.md's table of other caches against its sources, core/PEERS.md, and the tests.
"""

import functools
import re
import subprocess

import pytest

from measure.libpcache import ROOT

MUTANTS = "core/base/MUTANTS.md"
FORMAT = "core/format/FORMAT.md"
PEERS = "core/PEERS.md"
PEERS_TABLE = "## Beside other caches"
WITHOUT = "## Without a mutant"
# A word of its own, of two parts or more: "stale-kset". Prose has hyphens, too, but not behind "hazard" or "rule".
NAME = r"[a-z]+(?:-[a-z]+)+"
# Where a comment goes on in its next line.
GAP = r"(?:\s|//|#)+"
# Golden images that may be absent: tests/README.md.
MAY_BE_ABSENT = {"../shared/golden", "../shared/golden/manifest.json"}


@functools.cache
def texts():
    """{path from ROOT: content} of the tree's text files; not of what it ignores."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
    found = {}
    for name in filter(None, listed):
        if not name.startswith("tests/fuzz_corpus/") and (ROOT / name).is_file():
            try:
                found[name] = (ROOT / name).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    assert len(found) > 300
    return found


def rows(text):
    """The cells of each row of a Markdown text whose first is a name."""
    lines = (line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in cells] for cells in lines if re.fullmatch(NAME, cells[0].strip())]


def hazards():
    """The rows of hazards that have a mutant, and of those that have none."""
    with_one, without = texts()[MUTANTS].split(WITHOUT)
    return rows(with_one), rows(without)


def mutants():
    """{name: enumerator}, as PCACHE_MUTANT takes them."""
    listed = re.findall(rf'\{{"({NAME})", Hazard::(k\w+)\}},', texts()["core/base/mutants.cc"])
    assert len(listed) == len(dict(listed))
    return dict(listed)


def kebab(enumerator):
    return re.sub(r"(?<!^)([A-Z])", r"-\1", enumerator[1:]).lower()


def cited(word, text):
    """(name, line) of what a text cites: "hazard NAME", "hazards NAME, NAME and NAME", "hazard:NAME"."""
    pattern = rf"\b{word}s?(?::|{GAP})({NAME}(?:(?:,|{GAP}and){GAP}{NAME})*)"
    return [(name, text.count("\n", 0, match.start()) + 1)
            for match in re.finditer(pattern, text, re.IGNORECASE) for name in re.findall(NAME, match[1])]


def headings(text):
    """As GitHub makes anchors of them."""
    return {re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in text.splitlines() if line.startswith("#")}


def test_each_hazard_is_listed_once_and_in_full():
    with_one, without = hazards()
    names = [row[0] for row in with_one + without]
    assert len(with_one) > 30 and len(without) == 5
    assert sorted(names) == sorted(set(names))
    for row in with_one + without:
        assert len(row) == 3 and all(row), row
        assert len(row[1]) < 300, f"{row[0]}: one line"


def test_each_hazard_has_its_mutant():
    """And what has none is where the reasons are: the third column says why."""
    with_one, _ = hazards()
    assert {row[0] for row in with_one} == set(mutants())


def test_each_mutant_can_be_switched_on():
    """By a name that is its enumerator's, and at a place in the code."""
    enumerators = re.findall(r"^  (k\w+),$", texts()["core/base/mutants.h"], re.MULTILINE)
    assert {name: kebab(enumerator) for name, enumerator in mutants().items()} == {name: name for name in mutants()}
    assert sorted(mutants().values()) == sorted(enumerators)
    code = "".join(text for name, text in texts().items() if re.fullmatch(r"core/.*\.(cc|h)", name))
    for enumerator in enumerators:
        assert f"hazard(Hazard::{enumerator})" in code, f"nothing looks at {enumerator}"


@functools.cache
def unit_tests():
    """All of C++, as "Suite.Test"."""
    unit = "".join(text for name, text in texts().items() if name.endswith(("_test.cc", "for_test.h")))
    return {f"{suite}.{test}" for suite, test in re.findall(r"TEST(?:_[FP])?\((\w+),\s*(\w+)\)", unit)}


def is_test(cited_as):
    """test_x.py::test_y, a file by its path or name, Suite.* or Suite.Test."""
    if found := re.fullmatch(r"(test_\w+\.py)::(\w+)", cited_as):
        return f"def {found[2]}(" in texts().get(f"tests/{found[1]}", "")
    if re.fullmatch(r"[\w/]+\.(py|cc)", cited_as):
        return cited_as in texts() or cited_as in {name.split("/")[-1] for name in texts()}
    if cited_as.endswith(".*"):
        return any(test.startswith(cited_as[:-1]) for test in unit_tests())
    return cited_as in unit_tests()


def test_the_tests_that_are_to_notice_exist():
    for name, _, noticed in sum(hazards(), []):
        tests = re.findall(r"`([^`]+)`", noticed)
        assert tests, name
        for test in tests:
            assert is_test(test), f"{name}: no {test}"


@pytest.mark.parametrize("cited_as,there", [
    ("test_documents.py", True), ("test_nothing.py", False), ("test_documents.py::test_how_a_test_is_found", True),
    ("test_documents.py::test_nothing", False), ("core/pmem/pmem_test.cc", True), ("pmem_test.cc", True),
    ("nothing_test.cc", False), ("PmemFile.*", True), ("PmemFil.*", False), ("PmemFile.ReadOnly", True),
    ("PmemFile.Nothing", False)])
def test_how_a_test_is_found(cited_as, there):
    assert is_test(cited_as) == there


def test_the_table_of_other_caches_has_its_tests_and_sources():
    """Of each row a section with a line for each cache; of ours the tests that the table names, down to functions."""
    table = texts()["README.md"].split(PEERS_TABLE)[1].split("\n## ")[0]
    head, _, *table = [[cell.strip() for cell in line.strip("|").split(" | ")]
                       for line in table.splitlines() if line.startswith("|")]
    ours, shown_by, *peers = head[1:]
    assert (ours, shown_by) == ("pcache", "shown by") and len(table) > 10
    sections = dict(re.findall(r"^### (.+)\n((?:(?!#).*\n)+)", texts()[PEERS], re.MULTILINE))
    assert list(sections) == [row[0] for row in table]
    for name, _, shown, *_ in table:
        lines = re.findall(r"^- ([^:\n]+): ", sections[name], re.MULTILINE)
        assert lines == [ours, *peers], name
        files = re.findall(r"`([^`]+)`", shown)
        cited_as = re.findall(r"`(\w+\.(?:py|cc)(?:::\w+)?|[A-Z]\w+\.\w+)`", sections[name])
        in_files = {test.split("::")[0] for test in cited_as if re.search(r"\.(py|cc)\b", test)}
        assert files and in_files == set(files), name
        for test in files + cited_as:
            assert is_test(test), f"{name}: no {test}"


@pytest.mark.parametrize("word,where", [("hazard", MUTANTS), ("rule", FORMAT)])
def test_what_is_cited_by_name_is_in_its_table(word, where):
    known = {row[0] for row in rows(texts()[where])}
    found = {name: cited(word, text) for name, text in texts().items() if name != "tests/test_documents.py"}
    wrong = [f"{file}:{line}: {word} {name} is not in {where}" for file, names in found.items()
             for name, line in names if name not in known]
    assert not wrong, "\n".join(wrong)
    assert sum(map(len, found.values())) > (80 if word == "hazard" else 2)


def test_nothing_is_cited_by_number():
    wrong = [f"{file}: {match[0]}" for file, text in texts().items()
             for match in re.finditer(rf"\b(hazard|rule)s?{GAP}[0-9]+|hazard:[0-9]+", text, re.IGNORECASE)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text,names", [
    ("// Hazard stale-kset: it", ["stale-kset"]), ("hazards no-log-reserve,\n// nobody-wakes.", ["no-log-reserve",
                                                                                             "nobody-wakes"]),
    ("(hazard\n//   scan-for-dead-keys)", ["scan-for-dead-keys"]), ("PCACHE_MUTANT=hazard:a-b x", ["a-b"]),
    ("hazards a-b and c-d", ["a-b", "c-d"]), ("each known hazard switched on", []), ("hazard:NAME", [])])
def test_how_a_citation_is_read(text, names):
    assert [name for name, _ in cited("hazard", text)] == names


def test_documents_that_are_cited_exist():
    """By their path from the tree's root, from core/ as includes are, or from the file that cites; or by name alone."""
    alone = {name.split("/")[-1] for name in texts()}
    wrong = []
    for file, text in texts().items():
        if file == "tests/test_documents.py":
            continue
        for match in re.finditer(r"(?<![\w./:-])[\w.-]+(?:/[\w.-]+)*\.md\b|(?<![\w./])(?:\.\./)+[\w./-]*\w", text):
            path = match[0]
            places = [ROOT / path, ROOT / "core" / path, (ROOT / file).parent / path]
            inside = any(p.exists() and p.resolve().is_relative_to(ROOT.resolve()) for p in places)
            if not inside and path not in alone and path not in MAY_BE_ABSENT:
                wrong.append(f"{file}:{text.count(chr(10), 0, match.start()) + 1}: there is no {path}")
    assert not wrong, "\n".join(wrong)


def test_links_of_documents_lead_somewhere():
    wrong, links = [], 0
    for file, text in texts().items():
        if not file.endswith(".md"):
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            to = (ROOT / file).parent / path if path else ROOT / file
            links += 1
            if not to.exists() or (anchor and anchor not in headings(to.read_text(encoding="utf-8"))):
                wrong.append(f"{file}: {target}")
    assert not wrong, "\n".join(wrong)
    assert links > 5


def test_sections_that_are_cited_exist():
    """FORMAT.md, "Where things are"."""
    wrong, found = [], 0
    for file, text in texts().items():
        for match in re.finditer(rf'FORMAT\.md,{GAP}"([^"]+)"', text):
            title = re.sub(GAP, " ", match[1])
            found += 1
            if not re.search(rf"^## {re.escape(title)}", texts()[FORMAT], re.MULTILINE):
                wrong.append(f"{file}: {match[0]}")
    assert not wrong, "\n".join(wrong)
    assert found >= 2


def test_the_format_page_stays_short():
    assert len(texts()[FORMAT].splitlines()) < 120
