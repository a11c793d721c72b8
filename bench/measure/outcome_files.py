# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings as JSON, as JUnit's XML and as Markdown (GitHub's), and where they go.

A file is written twice: at the start, with the verdict that there is none yet, and at the end. So a place that cannot
be written is an error before anything is measured, and what an earlier run has left, or one that was killed, is not
taken for a verdict.
"""
import contextlib
import dataclasses
import json
import pathlib
import re
import sys
import time
import xml.etree.ElementTree as ET

from .errors import MeasureError
from .files import write_whole
from .outcome import Exit, Findings, Outcome
from .text_table import inline

SCHEMA = "pcache-verdict/1"
MOST_ROWS = 60  # of a table in Markdown: a job summary has an end
# What XML 1.0 cannot hold, not even escaped.
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
VERDICTS = {Exit.OK: "ok", Exit.WORSE: "worse", Exit.ERROR: "error", Exit.CANNOT_TELL: "cannot tell"}


def verdict_of(found):
    """`ok` is said when all was judged."""
    if found.status is Exit.OK and found.of(Outcome.UNJUDGED):
        return "ok in part"
    return VERDICTS[found.status]


def as_json(found):
    content = {"schema": SCHEMA, "command": found.command, "started": found.started, "verdict": verdict_of(found),
               "exit_status": int(found.status), "strict": found.is_strict, "headline": found.headline,
               "facts": found.facts, "notes": found.notes,
               "checks": [dataclasses.asdict(check) | {"outcome": check.outcome.value} for check in found.checks]}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def as_junit(found, seconds=0.0):
    """A suite for each group of checks. What was not judged is skipped, or with --strict failed; where nothing was
    judged for an error, that is a test of its own."""
    suites = ET.Element("testsuites", name=f"pcache-sweep {found.command}")
    groups = {}
    for check in found.checks:
        groups.setdefault(check.group, []).append(check)
    for group, checks in groups.items():
        suite = _suite(suites, found, group, seconds)
        for check in checks:
            _test_case(suite, found, check)
    if found.status is Exit.ERROR or not found.checks:
        suite = _suite(suites, found, "end", seconds)
        case = ET.SubElement(suite, "testcase", classname=f"{found.command}.end", name=found.command, time="0")
        if found.status is not Exit.OK:
            ET.SubElement(case, "error", type=VERDICTS[found.status], message=_xml(found.headline))
    for suite in [*suites, suites]:
        for attribute, tags in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"),
                                ("skipped", "skipped")):
            suite.set(attribute, str(len(list(suite.iter(tags)))))
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _suite(suites, found, group, seconds):
    suite = ET.SubElement(suites, "testsuite", name=_xml(f"{found.command}.{group}"), time=f"{seconds:.3f}",
                          timestamp=found.started.rstrip("Z"))
    properties = ET.SubElement(suite, "properties")
    for name, value in found.facts.items():
        ET.SubElement(properties, "property", name=_xml(name), value=_xml(value))
    for note in found.notes:
        ET.SubElement(properties, "property", name="note", value=_xml(note))
    return suite


def _test_case(suite, found, check):
    case = ET.SubElement(suite, "testcase", classname=_xml(f"{found.command}.{check.group}"), name=_xml(check.name),
                         time="0")
    said = f"{check.verdict}: {check.text}"
    if found.fails(check):
        ET.SubElement(case, "failure", type=check.verdict, message=_xml(said))
    elif check.outcome is Outcome.UNJUDGED:
        ET.SubElement(case, "skipped", message=_xml(said))
    ET.SubElement(case, "system-out").text = _xml(said)


def _xml(text):
    return NOT_XML.sub("?", str(text))


def as_markdown(found):
    """What must be read comes first: the verdict, what to know of it, what failed. The rest can be folded out."""
    mark = {Exit.OK: "✅", Exit.WORSE: "❌", Exit.ERROR: "❌", Exit.CANNOT_TELL: "⚠️"}[found.status]
    if found.status is Exit.OK and (found.of(Outcome.UNJUDGED) or found.notes):
        mark = "⚠️"
    lines = [f"### {mark} pcache-sweep {found.command}: {inline(found.headline)}", ""]
    lines += [f"- 🔴 **{inline(note)}**" for note in found.notes] + [""] * bool(found.notes)
    for outcome, title in ((Outcome.FAILED, "Worse"), (Outcome.UNJUDGED, "Not judged")):
        lines += _table(title, found.of(outcome))
    passed = found.of(Outcome.PASSED)
    if passed:
        lines += ["<details><summary>" + f"{len(passed)} passed</summary>", "", *_table("", passed), "</details>", ""]
    lines += [f"{inline(name)}: {inline(value)}  " for name, value in found.facts.items()]
    return "\n".join(lines).rstrip() + "\n"


def _table(title, checks):
    if not checks:
        return []
    lines = [f"**{title}**", ""] if title else []
    lines += ["| what | of | verdict | figures |", "|---|---|---|---|"]
    for check in checks[:MOST_ROWS]:
        cells = (check.group, check.name, check.verdict, check.text)
        lines.append("| " + " | ".join(map(inline, cells)) + " |")
    lines.append("")
    if len(checks) > MOST_ROWS:
        lines += [f"and {len(checks) - MOST_ROWS} more", ""]
    return lines


FORMATS = {"json": as_json, "junit": as_junit, "markdown": as_markdown}


def add_options(parser):
    for name, what in (("json", "the verdict for programs (results/README.md)"), ("junit", "JUnit's XML, for a CI"),
                       ("markdown", "for a job's summary or a comment")):
        parser.add_argument(f"--{name}", type=pathlib.Path, metavar="FILE", help=f"{what}; -: standard output")
    parser.add_argument("--strict", action="store_true", help="what could not be judged fails, with exit status 3")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


@contextlib.contextmanager
def written(command, options):
    """Gives Findings to fill in. What is asked for is written at the end, also where that is an error. Where standard
    output is one of the files, the lines for people go to standard error."""
    wanted = {name: getattr(options, name) for name in FORMATS if getattr(options, name)}
    if sum(str(path) == "-" for path in wanted.values()) > 1:
        raise MeasureError(f"{command}: --json, --junit and --markdown: only one of them can be -, standard output")
    found, begun, out = Findings(command, is_strict=options.strict), time.monotonic(), sys.stdout

    def write(is_end):
        for name, path in wanted.items():
            text = as_junit(found, time.monotonic() - begun) if name == "junit" else FORMATS[name](found)
            if str(path) == "-":
                out.write(text if is_end else "")
            elif is_end or not _is_stream(path):
                _write(path, text)

    write(is_end=False)
    is_on_stdout = any(str(path) == "-" for path in wanted.values())
    try:
        with contextlib.redirect_stdout(sys.stderr if is_on_stdout else out):
            yield found
    except BaseException as error:
        found.status, found.headline = Exit.ERROR, _said_by(error)
        with contextlib.suppress(MeasureError):  # the first error is what must be heard
            write(is_end=True)
        raise
    write(is_end=True)


def _said_by(error):
    if isinstance(error, SystemExit):
        return "pcache-sweep has refused it; its line is on standard error"
    if not isinstance(error, Exception):
        return "interrupted"
    return str(getattr(error, "text", None) or error) or type(error).__name__


def _is_stream(path):
    """What is written there stays: a pipe, a terminal."""
    return path.exists() and not path.is_file()


def _write(path, text):
    """A file whole; what is no file as it is."""
    try:
        if _is_stream(path):
            path.write_text(text, encoding="utf-8")
        else:
            write_whole(path, text)
    except OSError as error:
        raise MeasureError(f"{path}: cannot be written: {error.strerror}") from None
