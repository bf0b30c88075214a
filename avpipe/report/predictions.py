"""What the runs behind a figure predict of the test split, and why some predict nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from avpipe.plan.experiment import Experiment
from avpipe.plan.registry import suggest
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.spec import FigureSpec
from avpipe.tables.runs import read_run, shortened


class NothingToDraw(Exception):
    """No run gives what the figure shows; the arguments are lines that say why."""


@dataclass(frozen=True)
class Predictions:
    """What the runs of one row predict of the test split.

    Args:
        method: the row's printed name.
        seeds: seed -> the columns of predictions.parquet that were asked for.
        problems: why other seeds have none.
    """

    method: str
    seeds: dict[int, pd.DataFrame]
    problems: tuple[str, ...]

    def missing(self) -> str:
        """The problems as one line, method first."""
        return f"{self.method}: {'; '.join(self.problems)}"


LOCALIZED = ("clip", "segment", "truth", "prediction")
"""Columns that are read of predictions of localization."""
PARSED = ("clip", "modality", "segment", "category", "truth", "prediction")
"""Of video parsing."""
GROUNDED = ("clip", "segment", "other", "same_group", "audio_audio", "visual_visual", "audio_visual")
"""Of pretraining."""


def read_rows(
    spec: FigureSpec,
    study: Study,
    results: Path,
    seeds: Sequence[int] | None = None,
    columns: Sequence[str] = LOCALIZED,
) -> list[Predictions]:
    """The predictions of every row.

    Args:
        spec: the figure.
        study: whose runs they are.
        results: its folder.
        seeds: of the runs; none: all of the study's.
        columns: of predictions.parquet.

    Raises:
        NothingToDraw: if no run of any row has predictions.
    """
    experiments = spec.experiments(study)
    rows = [
        read_predictions(
            row.method, experiments[row.row, spec.setting], seeds or study.seeds, results, columns
        )
        for row in spec.rows
    ]
    if not any(row.seeds for row in rows):
        raise NothingToDraw("Nothing to draw: no run has predictions.", *(row.missing() for row in rows))
    return rows


def read_predictions(
    method: str,
    experiment: Experiment,
    seeds: Iterable[int],
    results: Path,
    columns: Sequence[str] = LOCALIZED,
) -> Predictions:
    """Read predictions.parquet of every seed; what is missing or failed becomes a problem."""
    found: dict[int, pd.DataFrame] = {}
    problems = []
    for seed in seeds:
        run = read_run(results, experiment, seed)
        path = results / run.name / "predictions.parquet"
        if run.problem is not None:
            problems.append(shortened(f"seed {seed} {run.problem}"))
        elif not path.is_file():
            problems.append(f"seed {seed} has no predictions.parquet")
        else:
            found[seed] = pd.read_parquet(path, columns=list(columns))
    return Predictions(method, found, tuple(problems))


def missing_lines(rows: Iterable[Predictions]) -> list[str]:
    """A sentence for each row of which runs are missing."""
    return [f"Missing: {row.missing()}." for row in rows if row.problems]


def counted_seeds(rows: Iterable[Predictions]) -> str:
    """ "3 seeds", "1 seed", or "2 or 3 seeds" where rows differ."""
    counts = sorted({len(row.seeds) for row in rows if row.seeds})
    return "1 seed" if counts == [1] else f"{' or '.join(map(str, counts))} seeds"


def read_categories(results: Path) -> tuple[str, ...]:
    """Names of the categories in the order of their indices, from `results`/categories.csv."""
    table = pd.read_csv(results / "categories.csv", dtype={"category": str}, keep_default_na=False)
    return tuple(table.sort_values("index")["category"])


def class_names(categories: Sequence[str]) -> list[str]:
    """Name of each class: the categories, and background as the last."""
    return [*categories, "background"]


def chosen_categories(
    spec: FigureSpec, asked: Sequence[str], limit: int, rows: list[Predictions], categories: Sequence[str]
) -> list[int]:
    """Indices of the categories asked for; of none, those with most test segments, in the dataset's order.

    Raises:
        ConfigError: if one that is asked for is none of the dataset's.
    """
    for name in asked:
        if name not in categories:
            known = suggest(name, list(categories))
            raise ConfigError(f"figure {spec.name}: options.categories: no category {name!r}; {known}")
    if asked:
        return [categories.index(name) for name in asked]
    counts = np.bincount(any_truth(rows), minlength=len(categories) + 1)[: len(categories)]
    return sorted(int(i) for i in np.argsort(-counts, kind="stable")[:limit] if counts[i])


def any_truth(rows: list[Predictions]) -> np.ndarray:
    """(segments,) the truth of the test split, which every run tells."""
    return next(table["truth"].to_numpy() for row in rows for table in row.seeds.values())
