# SPDX-License-Identifier: GPL-2.0-or-later
"""A page, by its template (page.html, history.html), and the files beside it: a CSV of each table, a PNG of each
figure, and an SVG of the one that is for a slide."""
import csv
import pathlib

import jinja2
import markupsafe

from . import figures, slide

def render(template, **content):
    """All that is put into the template is escaped, but for the figures, which are made here."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                                     keep_trailing_newline=True)
    return environment.get_template(template).render(**content)


class Page:
    """Writes the files into a folder, and gives the template what it shows of them."""

    def __init__(self, folder):
        self.folder, self.names = folder, set()

    def table(self, name, head, rows, kind="figures", marked=()):
        """The same table on the page and as a CSV file. On the page, rows of these numbers are red."""
        with open(self.folder / f"{self._free(name)}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *rows])
        return {"head": head, "rows": rows, "kind": kind, "marked": marked}

    def figure(self, name, figure, caption):
        figures.write_png(figure, self.folder / f"{self._free(name)}.png")
        return _inline(figure, caption)

    def slide(self, name, figure, caption):
        """The files have the title and what is constant, which the page says itself."""
        free = self._free(name)
        figures.write_png(figure, self.folder / f"{free}.png")
        figures.write_svg(figure, self.folder / f"{free}.svg")
        return _inline(slide.without_head(figure), f"{caption} For a slide: {free}.png, {free}.svg.")

    def _free(self, name):
        name = "".join(c if c.isalnum() or c in "-." else "-" for c in name).strip("-")
        free, number = name, 1
        while free in self.names:
            number += 1
            free = f"{name}-{number}"
        self.names.add(free)
        return free


def _inline(figure, caption):
    svg = markupsafe.Markup(figures.as_svg(figure))  # matplotlib has escaped what is in it
    figures.close(figure)
    return {"svg": svg, "caption": caption}
