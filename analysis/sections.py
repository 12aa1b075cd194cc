"""The parts of a report: each function turns trials and points into sections with tables, figures and their captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis import comparison, curves, efficiency, figures, palette, pareto, power, profiles, scores, spread, tables, times
from analysis.embedding import Figure, Section, Table
from analysis.tables import CELL

SHOWN = 60
"""Rows of a long table on the page; its data link has all of them."""
SENTENCES = 6
"""On how many seeds would tell two submissions apart; its data link has all pairs."""
CLOCK = (
    "The clock runs for batches, forward and backward passes, updates, projection refreshes, compilation, and all else a submission "
    "does. It stands still while the model is built, evaluated, recorded or saved."
)
HORIZON = (
    "Every submission chooses the length of its own learning-rate schedule. With a decaying schedule the target tends to fall late in "
    "the decay, so times to target hold for the schedules used here; a ranking in the middle of another's decay would mean little."
)
PROTOCOL = (CLOCK, HORIZON, "Targets and budgets are those that the records state, not those of today's code.")
"""The rules that all records share."""


def result(best: pd.DataFrame, summary: pd.DataFrame, styles: palette.Styles) -> Section:
    """Time to target, quality and memory per submission, as a table and as a race."""
    several = best["tried"].max() > 1
    note = (
        "Time and steps to the target are medians over seeds, a miss being infinite, with 95 % intervals (Student's t on logarithms) where "
        "every seed reached it, on the clock that stops for evaluation and records. A target is noticed at "
        "the next evaluation, so steps are multiples of the evaluation interval; an interval of zero width means that all seeds met the "
        "target at the same evaluation."
    )
    if several:
        note += " Of several configurations the best is shown."
    shown = summary.drop(columns=["n", "val_loss", "val_loss_low", "val_loss_high", "legacy_ppl", "legacy_ppl_low", "legacy_ppl_high"])
    shown = shown.drop(columns=[name for name in tables.RACE if shown[name].nunique() == 1])
    drawings = []
    for where, rows in races(best[best["target_value"].notna() & (best["status"] != "running")]):
        for column, words in (("reached_seconds", "Time"), ("reached_step", "Steps")):
            drawing = figures.time_to_target(rows, column, styles=styles)
            data = spread.times(rows, column, by=CELL)
            caption = f"{words} to target on {where}."
            drawings.append(Figure(name=f"{words.lower()}-{where}", caption=caption, drawing=drawing, data=data))
    return Section(
        anchor="result",
        title="Time to target",
        tables=(Table(name="summary", caption=note, data=summary, shown=tables.filled(shown)),),
        figures=tuple(drawings),
    )


def training(best: pd.DataFrame, points: pd.DataFrame, styles: palette.Styles) -> Section:
    """Loss against steps and against on-clock seconds, per workload."""
    goals = best.dropna(subset=["target_value"]).drop_duplicates("workload").set_index("workload")
    drawings = []
    for where, rows in races(best):
        name = next((name for name in ("val_loss", "train_loss") if _recorded(rows, points, name)), None)
        if name is None:
            continue
        targets = {str(key): float(value) for key, value in goals.loc[goals["target_name"] == name, "target_value"].items()}
        for x, words in (("step", "optimizer steps"), ("seconds", "on-clock time")):
            table = curves.thinned(rows, points, name=name, x="step" if x == "step" else "seconds")
            drawing = figures.curves(table, targets=targets, styles=styles)
            caption = f"{figures.VALUES[name].split(' (')[0].capitalize()} on {where} against {words}."
            drawings.append(Figure(name=f"loss-{x}-{where}", caption=caption, drawing=drawing, data=table))
    text = () if drawings else ("No loss has been recorded yet.",)
    return Section(anchor="curves", title="Training curves", text=text, figures=tuple(drawings))


def score(rankings: Sequence[scores.Ranking], styles: palette.Styles) -> Section | None:
    """Leaderboards, one per ruleset and machine, with performance profiles where there is more than one workload."""
    parts, drawings, notes = [], [], list[str]()
    for ruleset, fingerprint, studies, board in rankings:
        notes += [note for note in board.attrs["notes"] if note not in notes]
        name = f"score-{ruleset}-{fingerprint}"
        pairs = power.seeds(studies)
        notes += [note for note in power.line(pairs) if note not in notes][:SENTENCES]
        shown = board.rename(columns={"low": "score_low", "high": "score_high"}).drop(columns=["rank_low", "rank_high"], errors="ignore")
        parts.append(Table(name=name, caption=f"Ruleset: {ruleset} tuning. Machine: {fingerprint}.", data=board, shown=shown))
        if pairs["needed"].notna().any():
            parts.append(_apart(pairs, name))
        caption = f"AlgoPerf score, {ruleset} tuning, machine {fingerprint}."
        drawings.append(Figure(name=name, caption=caption, drawing=figures.scores(board, styles=styles), data=board))
        ratio = scores.ratios(studies)
        if np.isfinite(ratio.to_numpy()).any() and len(ratio) > 1:
            steps = profiles.profile(ratio)
            caption = "Performance profile: the share of workloads that a submission solves within a multiple of the fastest time."
            drawings.append(Figure(name=f"profile-{name}", caption=caption, drawing=figures.profile(steps, styles=styles), data=steps))
    if not parts:
        return None
    return Section(anchor="score", title="Score", text=tuple(notes), tables=tuple(parts), figures=tuple(drawings))


def _apart(pairs: pd.DataFrame, name: str) -> Table:
    """Neighbours in rank, and pairs of submissions that the trials do not tell apart."""
    caption = (
        "Difference of scores with its 95 % interval, and the studies (seeds) per workload that would show it with a power of 80 %: "
        "what to run more of, and what would not help."
    )
    close = pairs[~pairs["apart"] | ~pairs["first"].duplicated()]
    columns = ["first", "second", "difference", "difference_low", "difference_high", "apart", "studies", "needed"]
    shown = close.rename(columns={"low": "difference_low", "high": "difference_high"})[columns]
    return Table(name=f"pairs-{name}", caption=caption, data=pairs, shown=shown.head(2 * SENTENCES))


def speedup(trials: pd.DataFrame, points: pd.DataFrame, summary: pd.DataFrame, styles: palette.Styles) -> Section | None:
    """Speed-up over a tuned AdamW in steps for the same loss and in time to target, with its trend over model sizes."""
    losses = efficiency.final_losses(trials, points)
    baseline = efficiency.baseline_of(losses)
    if baseline is None or summary["submission"].nunique() < 2:
        return None
    table = efficiency.beside(losses, summary, baseline=baseline)
    known = [name for name in ("speedup", "time_speedup") if table[name].notna().any()]
    sizes = table.loc[table[known].notna().any(axis=1), "parameters"].nunique() if known else 0
    if "speedup" not in known and sizes < 2:
        return None
    caption = (
        f"Steps that {baseline} needs for the same final loss, over the submission's steps, by interpolation between the ends of "
        f"{baseline}'s tuned runs of several lengths (empty outside them: nothing is extrapolated); beside it the ratio of times to target."
    )
    parts, drawings = [Table(name="speedup", caption=caption, data=table, shown=tables.filled(table))], []
    for name in known:
        law = efficiency.trend(table, y=name)
        law = law[law["sizes"] > 1]
        if len(law):
            drawing = figures.scaling(table, y=name, baseline=baseline, styles=styles)
            words = "Data efficiency" if name == "speedup" else "Speed-up in time to target"
            drawings.append(Figure(name=f"scaling-{name}", caption=f"{words} against model size.", drawing=drawing, data=table))
            caption = f"{words} as a power law of the model's size: its exponent with a 95 % interval, which needs three sizes."
            shown = law.rename(columns={"low": "exponent_low", "high": "exponent_high"})
            parts.append(Table(name=f"trend-{name}", caption=caption, data=law, shown=shown))
    return Section(anchor="speedup", title=f"Speed-up over {baseline}", tables=tuple(parts), figures=tuple(drawings))


def perplexity(best: pd.DataFrame, points: pd.DataFrame) -> Section | None:
    """Exact and legacy perplexity at the end of training, published values beside them."""
    table = comparison.perplexity(best, points)
    if table["val_ppl"].isna().all():
        return None
    caption = (
        "Geometric mean over seeds with its 95 % interval, at the end of each trial: at the end of the budget, or at the target where "
        "trials stop there. The second column follows the convention of published perplexities, which divides the summed losses of N "
        "evaluation batches by N + 1, one batch too many."
    )
    shown = table if table["published"].notna().any() else table.drop(columns=["published", "paper", "relative_difference"])
    if "published" in shown:
        caption += " Published values come from their papers, not from us; the difference is ours over theirs in that convention."
    shown = shown.drop(columns=[name for name in ("ruleset", "fingerprint") if shown[name].nunique() == 1])
    part = Table(name="perplexity", caption=caption, data=table, shown=tables.filled(shown))
    return Section(anchor="perplexity", title="Perplexity", tables=(part,))


def memory(best: pd.DataFrame, predicted: pd.DataFrame | None) -> Section | None:
    """Measured bytes by part, with our prediction and the papers' estimates beside them."""
    measured = tables.memory(best)
    parts = [name for name in measured.columns if name.startswith("bytes_")]
    if not parts:
        return None
    caption = "Measured bytes by part, median over trials. The peak is that of the process or device, whatever else it holds."
    shown = [Table(name="memory", caption=caption, data=measured, shown=tables.filled(measured.drop(columns="configuration")))]
    text: tuple[str, ...] = ()
    if predicted is not None and len(beside := comparison.predictions(measured, predicted)):
        shown.append(Table(name="memory-predicted", caption="Prediction from shapes alone beside the measurement.", data=beside))
    elif predicted is not None:
        text = (comparison.unmatched(measured, predicted),)
    ranks = best.drop_duplicates(CELL).reindex(columns=[*CELL, "hp.rank"])
    if {"bytes_weights", "bytes_state"} <= set(parts) and len(estimates := comparison.estimates(measured.merge(ranks, on=CELL))):
        caption = "Weights and optimizer state beside the papers' own estimates, whose unit and accounting are not stated exactly."
        shown.append(Table(name="memory-published", caption=caption, data=estimates))
    drawings = [
        Figure(name=f"memory-{workload}", caption=f"Memory by part on {workload}.", drawing=figures.memory(rows), data=rows)
        for workload, rows in measured.groupby("workload", sort=False)
        if any(part in figures.PARTS and rows[part].notna().any() for part in parts)
    ]
    return Section(anchor="memory", title="Memory", text=text, tables=tuple(shown), figures=tuple(drawings))


def capped(trials: pd.DataFrame, styles: palette.Styles) -> Iterator[Figure]:
    """Score against a cap on memory, per ruleset and machine, where memory differs between trials."""
    for ruleset, machine, rows in times.groups(trials.dropna(subset=["target_value"])):
        table = pareto.curve(rows)
        if table["cap"].nunique() > 1:
            caption = f"Score if no trial may need more than a cap on memory; {ruleset} tuning, machine {machine}."
            name = f"cap-{ruleset}-{machine}"
            yield Figure(name=name, caption=caption, drawing=figures.score_against(table, "cap", styles=styles), data=table)


def tradeoff(summary: pd.DataFrame, styles: palette.Styles) -> Iterator[Figure]:
    """Time to target against peak memory, for workloads where at least two submissions have both."""
    for (workload, ruleset, machine), rows in summary.groupby(tables.RACE, sort=False):
        known = rows[np.isfinite(rows["reached_seconds"]) & rows["bytes_peak"].notna()]
        if len(known) > 1:
            caption = f"Time to target against peak memory on {workload}, {ruleset} tuning, machine {machine}; lower left is better."
            name = f"pareto-{workload}-{ruleset}-{machine}"
            yield Figure(name=name, caption=caption, drawing=figures.pareto(rows, styles=styles), data=rows)


def status(trials: pd.DataFrame) -> Section:
    """How the trials ended, and why those ended that did not reach the target."""
    counts = Table(name="status", caption="How many trials ended how.", data=tables.statuses(trials))
    failures = tables.failures(trials)
    if failures.empty:
        return Section(anchor="status", title="How trials ended", tables=(counts,))
    rest = f" The first {SHOWN} of {len(failures)}." if len(failures) > SHOWN else ""
    caption = f"Trials that did not reach a target, with reasons.{rest}"
    reasons = Table(name="failures", caption=caption, data=failures, shown=failures.head(SHOWN))
    return Section(anchor="status", title="How trials ended", tables=(counts, reasons))


def protocol(trials: pd.DataFrame) -> Section:
    """The rules of the race and the machines it ran on."""
    machines = [name for name in trials.columns if name.startswith("fingerprint.")]
    identities = trials.groupby(["fingerprint", *machines], dropna=False).size().rename("trials").reset_index()
    identities.columns = [str(name).removeprefix("fingerprint.") for name in identities.columns]
    return Section(
        anchor="protocol",
        title="Protocol and machines",
        text=PROTOCOL,
        tables=(
            Table(name="protocol", caption="What each workload asked for.", data=tables.protocol(trials)),
            Table(name="fingerprints", caption="Where it ran. Times are compared within one fingerprint only.", data=identities),
        ),
    )


def races(trials: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(where, trials) of every race; ruleset and machine are named where a workload has more than one."""
    for workload, rows in trials.groupby("workload", sort=False):
        for (ruleset, machine), part in rows.groupby(["ruleset", "fingerprint"], sort=False):
            words = [f"{ruleset} tuning"] if rows["ruleset"].nunique() > 1 else []
            words += [f"machine {machine}"] if rows["fingerprint"].nunique() > 1 else []
            yield f"{workload} ({', '.join(words)})" if words else str(workload), part


def _recorded(trials: pd.DataFrame, points: pd.DataFrame, name: str) -> bool:
    return bool(((points["name"] == name) & np.isfinite(points["value"]) & points["trial"].isin(trials["trial"])).any())
