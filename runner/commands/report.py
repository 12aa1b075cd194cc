"""Make a results folder one self-contained HTML page, and a summary in the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="results folder, or a study inside one")
    parser.add_argument(
        "-o",
        "--out",
        "--output",
        dest="output",
        metavar="OUT",
        type=Path,
        default=Path("report"),
        help="folder for index.html (default: report)",
    )
    parser.add_argument("--title", help="heading of the page (default: the name of DIR)")
    parser.add_argument(
        "--memory", metavar="CSV", type=Path, help="predictions to show beside measured memory, from `slimperf memory --csv`"
    )
    parser.add_argument("--export", action="store_true", help="also write figures as PNG and SVG, tables as text, Markdown, LaTeX and CSV")


def main(args: argparse.Namespace) -> int:
    """Writes OUT/index.html and prints the result in words."""
    from analysis import load, report

    trials, points = load.study(args.folder)
    predicted = _predictions(args.memory) if args.memory else None
    digest = report.digest(trials, points)
    parts = report.contents(digest, predicted=predicted)
    page = report.html(digest, parts, title=args.title or f"SlimPerf: {args.folder.resolve().name}")
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "index.html"
    file.write_text(page, encoding="utf-8")
    if args.export:
        report.export(parts, args.output)
    print(report.words(digest))
    print(f"report: {file}")
    return 0


def _predictions(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"--memory {file}: {error}; expected the file that `slimperf memory --csv` writes") from None
