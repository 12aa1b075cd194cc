"""Whether what a trial will need fits on a GPU, said before anything is loaded."""

from __future__ import annotations

import re

from runner import composition, memory
from runner.trial import Trial

RESERVED = 2**30
"""Bytes beside the tensors: the CUDA context, libraries' workspaces, fragmentation. Measured contexts take 0.4 to 0.8 GiB."""


def parse(text: str) -> int:
    """Bytes of a card sold as `24GB` (a vendor's GB is 2**30).

    Raises:
        ValueError: not a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(G|GB|GiB|T|TB|TiB)", text.strip(), re.IGNORECASE)
    if not found:
        raise ValueError(f"--card {text}: expected a size such as 24GB or 80GB")
    return int(float(found[1]) * (2**40 if found[2][0] in "Tt" else 2**30))


def fits(needed: float, card: int) -> bool:
    return needed + RESERVED <= card


def check(trial: Trial, card: int, name: str) -> None:
    """Stops a trial that the card cannot hold.

    Raises:
        ValueError: it needs more; the message says how much, for what, and which settings need less.
    """
    from runner import catalog, status

    workload = catalog.workload(trial.workload, trial.overrides)
    try:
        found = memory.predict(composition.submission_of(trial), workload)
    except memory.Unpredictable:
        return  # the trial will tell
    if fits(found["total"], card):
        return
    parts = ", ".join(f"{part} {status.megabytes(size)}" for part, size in found.items() if part not in ("total", "peak") and size)
    lighter = [text for text, on in (("checkpointing=true", workload.checkpointing), ("layerwise=true", workload.layerwise)) if not on]
    lighter += ["batch.micro=1"] if (workload.batch.micro or workload.batch.sequences) > 1 and not workload.layerwise else []
    raise ValueError(
        f"{trial.submission_name} on {trial.workload_name} needs {status.megabytes(found['total'])} ({parts}) and a reserve of "
        f"{status.megabytes(RESERVED)}; {name} has {status.megabytes(card)}: use a larger card or a lighter setting"
        + (f", such as --override {' '.join(lighter)}" if lighter else "")
    )
