# SPDX-License-Identifier: GPL-2.0-or-later
"""The figure of a run's first screen: 16:9, to be read from afar. Names stand at what they name, and values behind
it; the rows are in the order of the file."""
import textwrap

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from scipy.stats import gmean

from ..estimates import estimate
from . import figures, names
from .summary import over, ratio_text

SIZE = (12.8, 7.2)  # inches; 1280 x 720 at 100 dpi
# On the page, which says itself what stands above the axes: of rows as high as they need, so that it fits a screen.
BARE_HEIGHT, BARE_AXIS, BARE_ROW = 5.4, 1.2, 1.55
HEAD = 0.86  # of the height; above that stand the title and what all rows share
LARGE, LEAST_SIZE = 16, 10.5  # of letters, in points
MOST_ROWS = 24
LOG_FROM = 4.0  # greatest / least of ratios: from there on the smaller ones need the room of a logarithm
COLOR, PALE = figures.STYLES[0][0], "#aab7c4"


def of_answer(values, answer, title):
    """(figure, what to know of it). Lines where each has three points or more, else a row for each case; where these
    are too many, for each group of cases."""
    curves = _curves(values, answer)
    with pyplot.rc_context({"font.size": LARGE}):
        figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
        figure.head, figure.bare_height = _head(figure, title, ", ".join(names.constants(values.run))), BARE_HEIGHT
        if curves:
            figures.draw_lines(axes, values.axis, _wrapped(answer.unit, 42), curves, bound=1 if answer.one else None,
                               bound_name=answer.one, size=LARGE - 2, thick=1.8, wrap=26)
            return figure, ""
        rows, beside, note = _rows(values, answer)
        size = max(LEAST_SIZE, min(LARGE, SIZE[1] * HEAD * 72 / (len(rows) + 4) / 1.3))
        _draw_rows(axes, rows, answer, beside, size)
        figure.bare_height = min(BARE_HEIGHT, BARE_AXIS + BARE_ROW * size / 72 * sum(
            1 + label.get_text().count("\n") for label in axes.get_yticklabels()))
        return figure, note


def without_head(figure):
    """For a page that says the same in words."""
    for text in figure.head:
        text.set_visible(False)
    figure.set_size_inches(SIZE[0], figure.bare_height)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1))
    return figure


def _head(figure, title, constants):
    figure.get_layout_engine().set(rect=(0, 0, 1, HEAD), w_pad=0.16, h_pad=0.1)
    return [figure.text(0.012, 0.975, _wrapped(title, 76, 1), fontsize=24, weight="bold", va="top"),
            figure.text(0.012, 0.905, _wrapped(constants, 130, 1), fontsize=15, color="#444444", va="top")]


def _curves(values, answer):
    """{label: {x: Estimate}}; None: the cases are no lines."""
    axis = values.axis
    if not axis or answer.beside or not all(axis in case.values for case in answer.series):
        return None
    lines = values.lines(answer.series, answer.without)
    if len(lines) > figures.MOST_LINES or min(map(len, lines.values())) < 3:
        return None
    return {label: {x: estimate(list(answer.series[case].values())) for x, case in line.items()}
            for label, line in lines.items()}


def _rows(values, answer):
    """({label: Estimate}, {label: value beside it}, what to know)."""
    cases = list(answer.series)
    if len(cases) <= MOST_ROWS:
        labels = names.labels(values.run, cases, answer.without)
        rows = {labels[case]: estimate(list(found.values())) for case, found in answer.series.items()}
        return rows, {labels[case]: value for case, value in (answer.beside or ("", {}))[1].items()}, ""
    axes, groups = _groups(values, answer)
    rows = {label: value for label, of in groups.items() if (value := over(of, answer.mean))}
    kind = "geometric mean of the medians" if answer.mean is gmean else "mean of the medians"
    by = ", ".join(names.PARAMETERS.get(axis, axis) for axis in axes)
    return rows, {}, f"A row is the {kind} of the cases of the same {by}; the table below has each."


def _groups(values, answer):
    """By as many parameters, from the file's first on, as give no more than MOST_ROWS."""
    varied = [axis for axis in names.varied(values.run, list(answer.series)) if axis not in names.NO_QUESTION]
    axes, groups = [], {}
    for axis in varied:
        found = {}
        for case, series in answer.series.items():
            label = ", ".join(names.words(a, case.values[a]) for a in [*axes, axis] if a in case.values)
            found.setdefault(label, {})[case] = series
        if len(found) > MOST_ROWS:
            continue
        axes, groups = [*axes, axis], found
    return axes, groups or {"all cases": answer.series}


def _draw_rows(axes, rows, answer, beside, size):
    """Dots where they are compared with something, else bars, which begin at 0."""
    at, found = list(range(len(rows))), list(rows.values())
    medians = [e.median for e in found]
    error = [[e.median - e.low for e in found], [e.high - e.median for e in found]]
    greatest, least = max(e.high for e in found), min(e.low for e in found)
    is_dots = bool(answer.one or answer.beside)
    if is_dots:
        axes.errorbar(medians, at, xerr=error, linestyle="none", marker="o", markersize=size * 0.55, color=COLOR,
                      capsize=size / 4, linewidth=1.8)
    else:
        axes.barh(at, medians, xerr=error, color=PALE, edgecolor="black", height=0.62, linewidth=0.6,
                  error_kw={"capsize": size / 4, "linewidth": 1.6})
    if beside:
        axes.plot([beside[label] for label in rows], at, linestyle="none", marker="D", markersize=size * 0.75,
                  markerfacecolor="none", color=figures.STYLES[1][0], zorder=5)
    if answer.one and greatest / max(least, 1e-9) >= LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        low, high = min(least, 1), max(greatest, 1)
        beside_dots = max(1.8, (high / low) ** 0.25)  # room for the values on both sides
        axes.set_xlim(low / beside_dots, high * beside_dots)
    else:
        axes.set_xlim(0, max([greatest, *beside.values(), *([1] if answer.one else [])]) * 1.12)
    _ticks(axes, answer, size)
    for y, one in zip(at, found):
        # Where no line of 1 goes through it, if it has room before the names of the rows.
        room = (axes.transScale + axes.transLimits).transform((one.low, 0))[0]  # a part of the width
        is_left = answer.one and one.median < 1 and room > 0.14
        end = one.low if is_left else max(one.high, beside.get(list(rows)[y], 0))
        axes.annotate(value_text(one.median, answer), (end, y), (size * (-0.6 if is_left else 0.6), 0),
                      textcoords="offset points", fontsize=size, va="center", ha="right" if is_left else "left")
    axes.set_yticks(at, [_wrapped(label, 48, 2 if len(rows) <= 12 else 1) for label in rows], fontsize=size)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")


def _ticks(axes, answer, size):
    if answer.one:
        axes.axvline(1, color="black", linewidth=1.4)
        axes.annotate(f"1 = {answer.one}", (1, 1), (0, 4), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="center", fontsize=size, annotation_clip=False)
    if axes.get_xscale() == "log":
        low, high = axes.get_xlim()
        ticks = [step * 10.0 ** power for power in range(-6, 7) for step in (1, 2, 5)]
        axes.set_xticks([tick for tick in ticks if low <= tick <= high])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if answer.one or answer.beside else
                                                 figures.si(v)))
    unit = answer.unit + (", logarithmic" if axes.get_xscale() == "log" else "")
    if answer.beside:
        unit += f" (dots; diamonds: {answer.beside[0]})"
    axes.set_xlabel(unit)


def value_text(value, answer):
    return ratio_text(value) if answer.one or answer.beside else figures.si(value)


def _wrapped(text, width, most_lines=3):
    return "\n".join(textwrap.wrap(text, width, max_lines=most_lines, placeholder=" …"))
