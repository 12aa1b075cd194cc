"""The tables and figures of the Fira studies by name: from records to a table, verdicts on claims, and figures.

Everything here works with what is there: a table of a study that was interrupted has the rows that were run.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import ablation, alike, claims, figures, spikes
from analysis.ablation import perplexities
from analysis.claims import Order
from analysis.figures import studies
from analysis.reproduction import Reproduction, Result, Runs


def _methods(runs: Runs) -> Result:
    orders = [
        Order(better="fira", worse="adam", published="31.06 < 34.06"),
        Order(better="fira", worse="galore", published="31.06 < 34.88"),
        Order(better="fira", worse="only scaling", published="31.06 < 31.68"),
        Order(better="only scaling", worse="adam", published="31.68 < 34.06"),
        Order(better="adam", worse="galore", published="34.06 < 34.88"),
        Order(better="fira", worse="adam, two learning rates"),
        Order(better="adam, two learning rates", worse="adam"),
    ]
    return _compared(runs, orders, ablation.methods(), line="adam")


def _variants(runs: Runs) -> Result:
    orders = [
        Order(better="fira", worse="fira, one factor per matrix", published="31.06 < 31.52"),
        Order(better="fira", worse="without scaling (GaLore-add)", published="31.06 < 37.06"),
        Order(better="fira", worse="without the residual", published="31.06 < 34.88"),
        Order(better="only scaling", worse="only scaling, one factor per matrix", published="31.68 < 32.05"),
        *(
            Order(better="only scaling", worse=f"only scaling, basis {basis}", published="31.68 < 32.22")
            for basis in ("coordinates", "orthogonal", "gaussian")
        ),
        Order(better="fira", worse="fira, no alpha in the residual"),
        Order(better="fira", worse="fira, limiter after bias correction"),
    ]
    return _compared(runs, orders, ablation.variants(), line="fira")


def _limiters(runs: Runs) -> Result:
    orders = [
        Order(better="fira", worse="no limiter", published="31.06 < 32.22"),
        Order(better="fira", worse="fira, limiter shrink", published="31.06 < 33.98"),
        Order(better="fira", worse="fira, limiter tensor", published="31.06 < 33.81"),
        Order(better="fira", worse="no limiter, global gradient clipped at 1", published="31.06 < 31.22"),
        Order(better="fira", worse="fira, limiter clip, strength 100", published="31.06 < 31.22"),
        *(Order(better="fira", worse=f"fira, gamma {gamma}", published="31.06 lowest") for gamma in ("1.1", "1.001", "1")),
    ]
    return _compared(runs, orders, ablation.limiters(), line="fira")


def _compared(runs: Runs, orders: list[Order], printed: dict[tuple[object, ...], float], *, line: str) -> Result:
    table = perplexities(runs.planned, by=["variant"], printed=printed)
    drawn = {"": studies.bars(runs.planned, y="val_ppl", line=line)} if table["val_ppl"].notna().any() else {}
    return Result(tables={"": table}, claims=ablation.judged(runs.planned, orders), figures=drawn)


def _ranks(runs: Runs) -> Result:
    planned = runs.planned.assign(share=runs.planned["share"].fillna(1.0).round(4))
    matched = planned["variant"].str.startswith("fira, residual_gain")
    planned = planned.assign(variant=planned["variant"].where(~matched, "fira, residual's step held"))
    reference = planned[(planned["variant"] == "fira") & (planned["share"] == 0.25)].assign(variant="fira, residual's step held")
    planned = pd.concat([planned, reference], ignore_index=True)
    table = perplexities(planned, by=["variant", "share"], printed=ablation.ranks())
    swept = planned[planned["variant"] != "adam"]
    drawn = {}
    if not swept.empty:
        figure = figures.against(swept, x="share", y="val_ppl", hue="variant")
        full = planned.loc[planned["variant"] == "adam", "val_ppl"].astype(float)
        if full.notna().any():
            studies.across(figure.axes[0], float(np.exp(np.log(full).mean())), "adam, full rank")
        drawn[""] = figure
    rows = []
    for variant, printed in (("fira", "16 %"), ("only scaling", "16 %"), ("galore", "129 %"), ("fira, residual's step held", "(control)")):
        low, mean, high, n = ablation.falls(planned, variant)
        percent = (100 * (np.exp(mean) - 1), 100 * (np.exp(low) - 1), 100 * (np.exp(high) - 1))
        what = f"{variant}: perplexity at the smallest rank is higher than at the largest"
        rows.append(claims.told(what, printed, percent, n, claims.verdict(low, high, 0.0), digits=3))
    orders = [Order(better="only scaling at full rank", worse="adam", published="30.84 < 34.06")]
    whole = planned[(planned["variant"] == "only scaling") & (planned["share"] == 1.0)].assign(variant="only scaling at full rank")
    judged = ablation.judged(pd.concat([planned, whole]), orders)
    return Result(tables={"": table.sort_values(["variant", "share"])}, claims=pd.concat([pd.DataFrame(rows), judged]), figures=drawn)


def _refresh(runs: Runs) -> Result:
    planned = runs.planned.assign(
        gap=runs.planned["gap"].map(lambda value: "never" if value is None or value != value else str(int(value)))
    )
    orders = [Order(better=f"fira, on_refresh {what}", worse="fira") for what in ("reset", "rotate")]
    drawn = {"": figures.against(planned, x="gap", y="val_ppl", hue="variant")} if not planned.empty else {}
    # A refresh that never comes has no moments to reset or rotate: verdicts rest on the gaps that all of them have.
    gaps = set.intersection(*(set(rows["gap"]) for _, rows in planned.groupby("variant"))) if not planned.empty else set()
    judged = ablation.judged(planned[planned["gap"].isin(gaps)], orders)
    return Result(tables={"": perplexities(planned, by=["variant", "gap"])}, claims=judged, figures=drawn)


def _precision(runs: Runs) -> Result:
    planned = runs.planned.assign(variant=runs.planned["variant"] + ", state in " + runs.planned["state_dtype"].astype(str))
    orders = [
        Order(better=f"{method}, state in fp32", worse=f"{method}, state in {dtype}")
        for method in ("fira", "adam")
        for dtype in ("bf16", "bf16_stochastic")
    ]
    orders += [Order(better=f"fira, state in {dtype}", worse=f"adam, state in {dtype}") for dtype in ("fp32", "bf16", "bf16_stochastic")]
    return _compared(Runs(planned=planned, trials=runs.trials, points=runs.points), orders, {}, line="fira, state in fp32")


def _rates(runs: Runs) -> Result:
    table = perplexities(runs.planned, by=["variant", "lr"])
    best = table.dropna(subset=["val_ppl"]).drop_duplicates("variant").set_index("variant")["lr"].to_dict()
    tuned = runs.planned[[best.get(variant) == lr for variant, lr in zip(runs.planned["variant"], runs.planned["lr"], strict=True)]]
    tuned = tuned.assign(variant=tuned["variant"] + ", best of the rates tried")
    orders = [
        Order(better="fira, best of the rates tried", worse="adam, best of the rates tried", published="30.34 > 30.05 in SCALE's retuning")
    ]
    drawn = {"": figures.against(runs.planned, x="lr", y="val_ppl", hue="variant")} if not table.empty else {}
    return Result(tables={"": table}, claims=ablation.judged(tuned, orders), figures=drawn)


def _curves(runs: Runs) -> Result:
    from analysis import curves

    named = runs.trials.merge(runs.planned[["trial", "variant"]], on="trial")
    thinned = curves.thinned(named.assign(submission=named["variant"]), runs.points, name="val_ppl")
    if thinned.empty:
        return Result()
    return Result(tables={"": thinned[thinned["step"] == thinned["step"].max()]}, figures={"": figures.curves(thinned)})


def _spikes(runs: Runs) -> Result:
    counted = spikes.counted(runs.planned, runs.points)
    table = (
        counted.groupby("variant", sort=False).agg(spikes=("spikes", "mean"), worst=("worst", "max"), seeds=("trial", "size")).reset_index()
    )
    wide = counted.pivot_table(index="seed", columns="variant", values="spikes")
    rows = []
    for limited in [name for name in table["variant"] if name != "no limiter" and "no limiter" in wide]:
        difference = (wide["no limiter"] - wide[limited]).dropna().to_numpy(float)
        low, mean, high, n = claims.interval(difference)
        printed = (
            "removes it"
            if limited in ("fira", "fira, limiter tensor")
            else "spike stays"
            if limited == "fira, limiter shrink"
            else "(control)"
        )
        rows.append(
            claims.told(
                f"{limited}: fewer loss spikes than without a limiter", printed, (mean, low, high), n, claims.verdict(low, high, 0.0)
            )
        )
    activity = runs.points[(runs.points["name"] == "limiter") & runs.points["param"].notna()]
    shown = runs.planned[~runs.planned["variant"].str.contains(", strength ")]  # one strength of each tells the story
    activity = activity.merge(shown[["trial", "variant"]], on="trial")
    drawn = {}
    if not activity.empty:
        drawn["limiter"] = studies.series(activity, y="value", hue="variant", label="limiter's factor, mean over matrices")
    losses = runs.points[runs.points["name"] == "train_loss"].merge(shown[["trial", "variant", "seed"]], on="trial")
    if not losses.empty:
        first = losses[losses["seed"] == losses["seed"].min()]
        drawn["loss"] = studies.series(first, y="value", hue="variant", label="training loss, first seed (nats/token)")
    return Result(tables={"": table.sort_values("spikes", ignore_index=True)}, claims=pd.DataFrame(rows), figures=drawn)


ALL = (
    Reproduction(name="methods", kind="table", what="Fira among its baselines", studies=("fira-methods",), make=_methods),
    Reproduction(name="curves", kind="figure", what="perplexity over steps of the same runs", studies=("fira-methods",), make=_curves),
    Reproduction(
        name="variants", kind="table", what="what Fira is made of, one change at a time", studies=("fira-variants",), make=_variants,
    ),
    Reproduction(name="limiters", kind="table", what="ways to hold the residual's norm", studies=("fira-limiters",), make=_limiters),
    Reproduction(name="spikes", kind="figure", what="loss spikes and the limiter's activity", studies=("fira-limiters",), make=_spikes),
    Reproduction(
        name="ranks", kind="table", what="rank, with and without the residual's step held", studies=("fira-ranks",), make=_ranks,
        axes=("rank",),
    ),
    Reproduction(
        name="refresh", kind="table", what="updates from one subspace to the next, and the moments at a refresh", studies=("fira-refresh",),
        make=_refresh, axes=("gap",),
    ),
    Reproduction(
        name="precision", kind="table", what="storage of the optimizer's state", studies=("fira-precision",), make=_precision,
        axes=("state_dtype",),
    ),
    Reproduction(
        name="rates", kind="table", what="learning rates of Adam and Fira", studies=("fira-methods", "fira-rates"), make=_rates,
        axes=("lr",),
    ),
    Reproduction(
        name="similarity", kind="table", what="scaling factors of a low-rank and a full-rank training", studies=("fira-similarity",),
        make=lambda runs: Result(**alike.trainings(runs.trials, runs.points)),
    ),
    Reproduction(
        name="trajectory", kind="table", what="scaling factors along one full-rank trajectory", studies=("fira-trajectory",),
        make=lambda runs: Result(**alike.one_trajectory(runs.trials)),
    ),
    Reproduction(
        name="bound", kind="table", what="both sides of the error bound", studies=("fira-trajectory",),
        make=lambda runs: Result(**alike.bound(runs.trials)),
    ),
)  # fmt: skip


def named(name: str) -> Reproduction:
    """The table or figure of this name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    found = {one.name: one for one in ALL}
    if name not in found:
        raise ValueError(f"no table or figure {name!r} to reproduce; there are: {', '.join(found)}")
    return found[name]
