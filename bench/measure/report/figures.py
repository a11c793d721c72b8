# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a report. Every one is readable in grey: lines differ in dash and marker, bars in hatch."""
import io
import math
import re
import textwrap

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: E402

from ..run_folder import number_of  # noqa: E402

# Dark to light, so that they stay apart in grey, too.
STYLES = [("#1b1b6f", "-", "o"), ("#c0392b", "--", "s"), ("#1e8449", "-.", "^"), ("#b9770e", ":", "D"),
          ("#6c3483", (0, (5, 1)), "v"), ("#117a8b", (0, (1, 1)), "P"), ("#7f8c8d", (0, (3, 1, 1, 1)), "X"),
          ("#424949", (0, (7, 2)), "*")]
MOST_LINES = len(STYLES)
UNITS = {"bs": "request size (bytes)", "iodepth": "requests in flight", "numjobs": "threads",
         "working_set": "working set / cache size", "cache_share": "data that the cache keeps / of the trace",
         "gc_percent": "gc_percent (%)", "cache_size": "cache size (bytes)",
         "rwmixread": "reads (%)", "fsync": "writes per flush"}

pyplot.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.35, "svg.fonttype": "none",
                        "svg.hashsalt": "pcache", "axes.spines.top": False, "axes.spines.right": False})
WIDTH, LABELLED_WIDTH = 6.4, 8.4  # inches; with names of lines beside the axes


def short(number):
    """4096 -> 4k, 0.25 -> 0.25."""
    for factor, unit in ((1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k")):
        if number >= factor and number % factor == 0:
            return f"{number // factor:.0f}{unit}"
    return f"{number:g}"


def si(number, _=None):
    """1250000 -> 1.25 M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.3g}"


def name_lines(axes, ends, size, wrap=38):
    """ends: [(label, color, x, y)]. Each line's name stands right of the axes, as near to its end as the others'
    names allow. The limits of the axes must be final."""
    to_axes = axes.transData + axes.transAxes.inverted()
    found = sorted((to_axes.transform((x, y))[1], textwrap.fill(label, wrap), color, (x, y))
                   for label, color, x, y in ends)
    line = size * 1.3 / (axes.figure.get_size_inches()[1] * 72 * 0.75)  # of the height of the axes
    heights = [line * (1 + label.count("\n")) for _, label, *_ in found]
    for place, (_, label, color, end) in zip(spread([at for at, *_ in found], heights), found):
        leader = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "linestyle": ":", "shrinkA": 0, "shrinkB": 3,
                  "relpos": (0, 0.5)}
        axes.annotate(label, end, (1.03, place), textcoords="axes fraction", color=color, fontsize=size, va="center",
                      annotation_clip=False, arrowprops=leader)


def spread(places, heights):
    """The same ascending places, moved as far as is needed for so high texts not to lie over each other; below 1, if
    they all fit."""
    places, apart = list(places), [(a + b) / 2 for a, b in zip(heights, heights[1:])]
    for n, step in enumerate(apart):
        places[n + 1] = max(places[n + 1], places[n] + step)
    places[-1] = min(places[-1], max(1 - heights[-1] / 2, sum(apart)))
    for n, step in reversed(list(enumerate(apart))):
        places[n] = min(places[n], places[n + 1] - step)
    return places


def lines(title, axis, y_label, curves, *, bound=None, log_y=False):
    """curves: {label: {x: Estimate}}. A vertical bar is the interval of each median."""
    figure, axes = pyplot.subplots(figsize=(LABELLED_WIDTH if len(curves) > 1 else WIDTH, 3.6), layout="constrained")
    draw_lines(axes, axis, y_label, curves, bound=bound, bound_name="the bound", log_y=log_y)
    axes.set_title(title, loc="left", fontsize=9)
    return figure


def draw_lines(axes, axis, y_label, curves, *, bound=None, bound_name="", log_y=False, size=7, thick=1.0, wrap=38):
    xs = sorted({x for curve in curves.values() for x in curve})
    log_x = len(xs) > 2 and min(xs) > 0 and max(xs) / min(xs) >= 8
    ends = []
    for (label, curve), (color, dash, marker) in zip(curves.items(), STYLES):
        points = sorted(curve.items())
        medians = [e.median for _, e in points]
        ends.append((label, color, points[-1][0], medians[-1]))
        axes.errorbar([x for x, _ in points], medians,
                      yerr=[[m - e.low for m, (_, e) in zip(medians, points)],
                            [e.high - m for m, (_, e) in zip(medians, points)]],
                      color=color, linestyle=dash, marker=marker, markersize=4 * thick, linewidth=1.4 * thick,
                      capsize=2.5 * thick)
    if bound is not None:
        axes.axhline(bound, color="black", linewidth=0.8 * thick)
        ends += [(bound_name, "black", xs[-1], bound)] if bound_name else []
    if log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(xs, [short(x) for x in xs], rotation=45 if len(xs) > 8 else 0)
    axes.minorticks_off()
    if log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(si))
    axes.set_xlabel(UNITS.get(axis, axis))
    axes.set_ylabel(y_label)
    if len(ends) > 1:
        name_lines(axes, ends, size, wrap)


def bars(title, y_label, values, *, bound=None):
    """values: {label: Estimate}; for cases that no number orders."""
    figure, axes = pyplot.subplots(figsize=(LABELLED_WIDTH, 0.9 + 0.32 * len(values)), layout="constrained")
    labels = list(values)
    medians = [values[label].median for label in labels]
    axes.barh(labels, medians, color="#aab7c4", edgecolor="black", height=0.6, hatch="//", linewidth=0.6,
              xerr=[[m - values[k].low for m, k in zip(medians, labels)],
                    [values[k].high - m for m, k in zip(medians, labels)]],
              error_kw={"capsize": 2.5, "linewidth": 1})
    axes.invert_yaxis()
    if bound is not None:
        axes.axvline(bound, color="black", linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(si))
    axes.set_xlabel(y_label)
    axes.set_title(title, loc="left", fontsize=9)
    return figure


def percentiles(title, curves):
    """curves: {label: {percentile: Estimate in ns}}; the axis gives each nine the same room."""
    figure, axes = pyplot.subplots(figsize=(LABELLED_WIDTH if len(curves) > 1 else WIDTH, 3.6), layout="constrained")
    ticks, ends = sorted({p for curve in curves.values() for p in curve}), []
    for (label, curve), (color, dash, marker) in zip(curves.items(), STYLES):
        points = [(-math.log10(1 - p / 100), e.median / 1000) for p, e in sorted(curve.items()) if e.median > 0]
        if not points:
            continue  # no logarithm has a place for it
        axes.plot(*zip(*points), color=color, linestyle=dash, marker=marker, markersize=4, linewidth=1.4)
        ends.append((label, color, *points[-1]))
    axes.set_xticks([-math.log10(1 - p / 100) for p in ticks], [f"p{p:g}" for p in ticks])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_xlabel("percentile of requests")
    axes.set_ylabel("latency (µs)")
    axes.set_title(title, loc="left", fontsize=9)
    if len(ends) > 1:
        name_lines(axes, ends, 7)
    return figure


def over_time(title, rounds):
    """rounds: {label: [(ms, iops)]}."""
    figure, axes = pyplot.subplots(figsize=(WIDTH, 2.2), layout="constrained")
    for (label, points), (color, dash, _) in zip(rounds.items(), STYLES):
        axes.plot([ms / 1000 for ms, _ in points], [iops for _, iops in points], label=label, color=color,
                  linestyle=dash, linewidth=1.1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(si))
    axes.set_xlabel("time (s)")
    axes.set_ylabel("requests per second")
    axes.set_title(title, loc="left", fontsize=9)
    if len(rounds) > 1:  # lines that lie over each other have no ends to name
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return figure


def history(series):
    """A point a commit, with its interval; levels between changes; what is doubtful is hollow."""
    figure, axes = pyplot.subplots(figsize=(9.6, 2.8), layout="constrained")
    for hollow in (False, True):
        chosen = [(x, p.value) for x, p in enumerate(series.points) if bool(p.doubt) == hollow]
        if chosen:
            axes.errorbar([x for x, _ in chosen], [v.median for _, v in chosen],
                          yerr=[[max(0, v.median - v.low) for _, v in chosen],
                                [max(0, v.high - v.median) for _, v in chosen]],
                          linestyle="none", marker="o", markersize=3.5, capsize=1.5, linewidth=0.8,
                          color="#8a8a8a" if hollow else STYLES[0][0], markerfacecolor="none" if hollow else None)
    for first, last, median in series.levels():
        axes.plot([first, last], [median, median], color="black", linewidth=1)
    for at, change in series.changes:
        worse = series.is_worse(change)
        axes.axvline(at - 0.5, color="#b30000" if worse else "#1e8449", linestyle="-" if worse else "--", linewidth=1.2)
        what = f"{'worse' if worse else 'better'}: x{change.ratio.median:.3f} at {series.points[at].commit[:12]}"
        axes.annotate(what, (at - 0.5, 0.02), xycoords=("data", "axes fraction"), fontsize=7, ha="right", va="bottom",
                      rotation=90)
    step = max(1, len(series.points) // 24)
    ticks = range(0, len(series.points), step)
    axes.set_xticks(list(ticks), [series.points[x].commit[:8] for x in ticks], rotation=60, fontsize=6.5)
    axes.yaxis.set_major_formatter(FuncFormatter(si))
    axes.set_title(series.title, loc="left", fontsize=9)
    return figure


def as_svg(figure):
    """For a page that holds several: the ids that one refers to are its own."""
    as_svg.number += 1
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg"):]
    prefix = f"f{as_svg.number}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    return re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}", text)


as_svg.number = 0


def write_png(figure, path):
    figure.savefig(path, format="png", dpi=144)


def write_svg(figure, path):
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def close(figure):
    pyplot.close(figure)


def x_axis(run):
    """The axis to draw along: of those that are numbers the one with most values; None: none has three."""
    def values(axis):
        found = {case.values[axis] for case in run.cases if axis in case.values}
        return [] if any(number_of(axis, v) is None for v in found) else found
    best = max((a for a in run.axes if a in UNITS), key=lambda a: len(values(a)), default=None)
    return best if best and len(values(best)) >= 3 else None


__all__ = ["lines", "draw_lines", "bars", "percentiles", "over_time", "history", "as_svg", "write_png", "write_svg",
           "close", "x_axis", "si", "short", "MOST_LINES"]
