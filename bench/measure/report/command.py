# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep report FOLDER... [--output FOLDER] [--wide PERCENT]

One page, report.html, that needs nothing else. Of each run first what was asked, the answer in one sentence with its
interval, what makes it doubtful, and one figure; then the method, all figures and tables, and the machine. Beside it
the tables as CSV and the figures as PNG; the first one is RUN-summary.png and .svg, for a slide. Without --output it
goes into the first FOLDER. What makes the figures doubtful is red, and said on standard error: measurements that
waited for space, which are of the disk; a load above the CPUs; and intervals that are wider, to each side of the
median, than --wide (10 %).
"""
import pathlib

from ..command_line import Parser
from ..doubts import WIDE, say
from ..errors import MeasureError
from ..run_folder import Run
from .page import Page, render
from .section import section_of, title_of


def make(runs, folder, wide=WIDE):
    """Writes the page; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    page, sections = Page(folder), []
    for run in runs:
        if not run.samples:
            raise MeasureError(f"{run.folder}: no measurement has succeeded; there is nothing to draw")
        sections.append(section_of(run, page, wide))
        say(f"report: {run.name}", sections[-1]["doubts"])
    path = folder / "report.html"
    path.write_text(render("page.html", title=", ".join(map(title_of, runs)), sections=sections), encoding="utf-8")
    return path


def main(arguments):
    parser = Parser("report", __doc__)
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--output", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--wide", type=float, default=100 * WIDE, metavar="PERCENT")
    options = parser.parse_args(arguments)
    if not options.wide > 0:
        parser.error(f"--wide {options.wide:g}: expected a percentage")
    runs = [Run(folder) for folder in options.folders]
    print(make(runs, options.output or options.folders[0] / "report", options.wide / 100))
    return 0
