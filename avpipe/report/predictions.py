"""The predictions behind a figure, read from its runs, and the reasons why some are missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from avpipe.plan.registry import suggest
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.spec import FigureSpec
from avpipe.tables.runs import read_run, shortened


class NothingToDraw(Exception):
    """No run has what the figure shows. The arguments are lines that say why."""


@dataclass(frozen=True)
class RowPredictions:
    """A row's predictions for the test split.

    Args:
        method: the row's printed name.
        seeds: seed -> predictions.parquet.
        problems: why other seeds have no predictions.
    """

    method: str
    seeds: dict[int, pd.DataFrame]
    problems: tuple[str, ...]


def read_rows(
    spec: FigureSpec, study: Study, results: Path, seeds: Sequence[int] | None = None
) -> list[RowPredictions]:
    """The predictions of every row, of these seeds (None: all of the study's).

    Raises:
        NothingToDraw: if no run of any row has predictions.
    """
    experiments, rows = spec.experiments(study), []
    for row in spec.rows:
        found, problems = dict[int, pd.DataFrame](), [row.gap] if row.gap else []
        for seed in () if row.gap else seeds or study.seeds:
            run = read_run(results, experiments[row.row, spec.setting], seed)
            path = results / run.name / "predictions.parquet"
            if run.problem is None and path.is_file():
                found[seed] = pd.read_parquet(path)
            else:
                problems.append(shortened(f"seed {seed} {run.problem or 'has no predictions.parquet'}"))
        rows.append(RowPredictions(row.method, found, tuple(problems)))
    if not any(row.seeds for row in rows):
        raise NothingToDraw("Nothing to draw: no run has predictions.", *missing_lines(rows))
    return rows


def missing_lines(rows: Iterable[RowPredictions]) -> list[str]:
    """A sentence for each row with missing runs."""
    return [f"Missing: {row.method}: {'; '.join(row.problems)}." for row in rows if row.problems]


def mean_over(counts: Iterable[int], spread: bool = True) -> str:
    """A sentence such as "Mean over 2 or 3 seeds ± sample standard deviation.".

    Args:
        counts: the number of seeds of each row; rows without any do not count.
        spread: whether the figure shows the standard deviation.
    """
    numbers = sorted(set(counts) - {0})
    if numbers == [1]:
        return "Mean over 1 seed."
    return (
        f"Mean over {' or '.join(map(str, numbers))} seeds{' ± sample standard deviation' if spread else ''}."
    )


def chosen_categories(
    spec: FigureSpec, asked: Sequence[str], limit: int, truth: np.ndarray, categories: Sequence[str]
) -> list[int]:
    """Indices of the categories asked for; if none are, the `limit` most frequent in `truth`, in the dataset's order.

    Raises:
        ConfigError: if the dataset does not have a category that is asked for.
    """
    for name in asked:
        if name not in categories:
            known = suggest(name, list(categories))
            raise ConfigError(f"figure {spec.name}: options.categories: no category {name!r}; {known}")
    if asked:
        return [categories.index(name) for name in asked]
    counts = np.bincount(truth, minlength=len(categories) + 1)[: len(categories)]
    return sorted(int(i) for i in np.argsort(-counts, kind="stable")[:limit] if counts[i])


def any_truth(rows: list[RowPredictions]) -> np.ndarray:
    """(segments,) the true classes of the test split, which are the same in every run."""
    return next(table["truth"].to_numpy() for row in rows for table in row.seeds.values())
