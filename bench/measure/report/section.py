# SPDX-License-Identifier: GPL-2.0-or-later
"""One run as the template shows it."""
import collections

from ..doubts import Doubts
from ..estimates import CONFIDENCE, LEAST_FOR_INTERVAL
from ..judge import LEAST_ROUNDS, SIGNIFICANT
from . import host_tables, names, replay_tables, run_figures, run_tables, slide
from .run_values import RunValues, iops
from .summary import THRESHOLD, answer_of

MOST_NAMED = 6


def section_of(run, page, wide):
    """What the template says of the run. Figures and tables are made in the order of the page, which is that of the
    numbers in their files' names."""
    values = RunValues(run)
    run = values.run
    left_out, doubts = cases_left_out(values), Doubts.of(run, wide)
    answer, (what_varies, constant) = answer_of(values), names.asked(run)
    section = {
        "answer": answer.sentence, "what_varies": what_varies, "constant": constant,
        "slide": page.slide(f"{run.name}-summary", *slide_of(values, answer)),
        "title": title_of(run), "name": run.name, "started": run.info["started"],
        "sources": run_tables.joined(run.sources()), "cases": len(run.cases), "repeats": run.info["repeats"],
        "seed": run.info["seed"], "how_long": how_long(run), "confidence": f"{CONFIDENCE:.0%}",
        "most_for_range": LEAST_FOR_INTERVAL - 1, "least_rounds": LEAST_ROUNDS, "significant": SIGNIFICANT,
        "threshold": f"{THRESHOLD:.0%}", "doubts": list(doubts.notes()),
        "failed": failures(run),
        "left_out": len(left_out), "left_out_named": left_out[:MOST_NAMED],
        "throughput": run_figures.throughput(values, page),
        "ratio": run_figures.ratio_to_bound(values, page),
        "latency": run_figures.latency_by_percentile(values, page)}
    section["series"], section["has_more_series"] = run_figures.over_time(values, page)
    section["most_series"] = run_figures.MOST_SERIES
    section["miss_ratios"] = replay_tables.miss_ratios(values, page)
    section["traffic"] = replay_tables.traffic(values, page)
    section["published"] = run_tables.beside_published(values, page)
    section["all_cases"] = run_tables.all_cases(values, page, doubts)
    section["hosts"] = host_tables.each_host(values, page)
    section["host_facts"] = host_tables.host_facts(values, page)
    section["machine"] = run_tables.machine(values, page)
    return section


def slide_of(values, answer):
    """(figure, caption)."""
    figure, note = slide.of_answer(values, answer, title_of(values.run))
    return figure, f"Medians, with their intervals. {note}".strip()


def title_of(run):
    return run.info["title"] or run.name


def failures(run):
    """What happened several times is said once."""
    found = collections.Counter(f"{case.id}: {error}" for case, _, error in run.failed)
    return [what + (f" ({times} times)" if times > 1 else "") for what, times in found.items()]


def cases_left_out(values):
    """Neither measured nor failed."""
    failed = [case for case, _, _ in values.run.failed]
    return [case.id for case in values.run.cases if not values.estimate(iops, case) and case not in failed]


def how_long(run):
    """Of a measurement: for a time, or until its volume is through."""
    info, parts = run.info, []
    if any(case.is_timed for case in run.cases):
        warmup = f" after {info['warmup_s']:g} s of warm-up" if info["warmup_s"] else ""
        parts.append(f"{info['runtime_s']:g} s{warmup}")
    for what, is_trace in (("volume", False), ("trace", True)):
        if took := [sample.runtime_ms for sample in run.samples
                    if not sample.case.is_timed and (sample.case.trace is not None) == is_trace]:
            parts.append(f"a {what}, which took {milliseconds(min(took))} to {milliseconds(max(took))}")
    return ", or ".join(parts)


def milliseconds(ms):
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{ms:.0f} ms"
