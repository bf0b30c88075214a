"""The papers' figures from runs and clips, as svg and png.

`categories`: accuracy per event category, bars of the methods side by side. `segments`: the segments of one test
clip with truth and predictions. What is missing is said in the figure; it never stops the others.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from avpipe.config.section import ConfigError
from avpipe.config.study import Study
from avpipe.experiment import Experiment
from avpipe.lazy import suggest
from avpipe.media.presets import CANONICAL, PRESETS
from avpipe.media.segments import decode_audio, decode_frames, read_shard
from avpipe.metrics.localization import category_accuracy
from avpipe.report.style import (
    BACKGROUND,
    COLOURS,
    INK,
    SOFT,
    WARNING,
    figure_style,
    message_figure,
    wrapped,
    write_figure,
)
from avpipe.report.timeline import Timeline, draw_timeline
from avpipe.tables.runs import notice, read_run, shortened
from avpipe.tables.spec import CategoriesFigure, FigureSpec, SegmentsFigure


@dataclass(frozen=True)
class Predictions:
    """What the runs of one row predict of the test split.

    Args:
        method: the row's printed name.
        seeds: seed -> columns clip, segment, truth, prediction of predictions.parquet.
        problems: why other seeds have none.
    """

    method: str
    seeds: dict[int, pd.DataFrame]
    problems: tuple[str, ...]

    def missing(self) -> str:
        """The problems as one line, method first."""
        return f"{self.method}: {'; '.join(self.problems)}"


def draw_figure(name: str, spec: FigureSpec, study: Study, results: Path) -> None:
    """Draw the figure `spec` from the runs in `results`/runs and write `results`/figures/{name}.svg and .png.

    Args:
        name: of the files.
        spec: what `load_figure` read from workflow/figures.
        study: extractors, seeds, media preset and notice.
        results: the study's folder, results/{dataset}.

    Raises:
        ConfigError: if the figure asks for a category, a clip or a seed that is not there.
    """
    experiments = spec.experiments(study)
    said = notice(study, experiments.values())
    title, text = (f"[{said.tag}] {spec.title}", said.text) if said else (spec.title, None)
    rows = [
        read_predictions(row.method, experiments[row.row, spec.setting], study, results) for row in spec.rows
    ]
    with figure_style():
        if not any(row.seeds for row in rows):
            figure = message_figure(
                title, ["Nothing to draw: no run has predictions.", *(row.missing() for row in rows)]
            )
        elif isinstance(spec, CategoriesFigure):
            figure = draw_categories(spec, rows, read_categories(results), title, text)
        elif isinstance(spec, SegmentsFigure):
            timeline = read_timeline(spec, rows, study, results)
            figure = draw_timeline(timeline, title, text)
        else:
            raise TypeError(f"no drawing for {type(spec).__name__}")
        write_figure(figure, results / "figures" / name, title)


def read_predictions(method: str, experiment: Experiment, study: Study, results: Path) -> Predictions:
    """Read predictions.parquet of every seed; what is missing or failed becomes a problem."""
    seeds: dict[int, pd.DataFrame] = {}
    problems = []
    for seed in study.seeds:
        run = read_run(results, experiment, seed)
        path = results / run.name / "predictions.parquet"
        if run.problem is not None:
            problems.append(shortened(f"seed {seed} {run.problem}"))
        elif not path.is_file():
            problems.append(f"seed {seed} has no predictions.parquet")
        else:
            seeds[seed] = pd.read_parquet(path, columns=["clip", "segment", "truth", "prediction"])
    return Predictions(method, seeds, tuple(problems))


def read_categories(results: Path) -> tuple[str, ...]:
    """Names of the categories in the order of their indices, from `results`/categories.csv."""
    table = pd.read_csv(results / "categories.csv", dtype={"category": str}, keep_default_na=False)
    return tuple(table.sort_values("index")["category"])


def draw_categories(
    spec: CategoriesFigure, rows: list[Predictions], categories: tuple[str, ...], title: str, said: str | None
) -> Figure:
    """Grouped bars: of each category's test segments the share found, mean ± sd over seeds.

    Raises:
        ConfigError: if `spec.options.categories` names one that the dataset does not have.
    """
    shown = _shown_categories(spec, rows, categories)
    names = [categories[index] if index < len(categories) else "background" for index in shown]
    scores = {row.method: _category_scores(row, len(categories) + 1)[:, shown] for row in rows if row.seeds}
    width = max(7.0, 0.5 + len(shown) * (0.32 + 0.17 * len(scores)))
    figure = Figure(figsize=(width, 4.6), layout="constrained")
    figure.suptitle(wrapped(title, width - 1, 12), x=0.012, ha="left", size=12, weight="bold")
    axis = figure.subplots()
    bar = 0.8 / len(scores)
    for i, (method, values) in enumerate(scores.items()):
        places = np.arange(len(shown)) - 0.4 + bar * (i + 0.5)
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else None
        axis.bar(
            places,
            values.mean(axis=0),
            bar * 0.92,
            label=method,
            color=COLOURS[i % len(COLOURS)],
            yerr=spread,
            error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 1.8},
        )
    axis.set_xticks(range(len(shown)), [_broken(name) for name in names])
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(shown) - 0.4)
    axis.set_ylim(0, 105)
    axis.set_yticks(range(0, 101, 20))
    axis.set_ylabel("accuracy (%)")
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=BACKGROUND, linewidth=0.8)
    if said:
        axis.set_title(wrapped(said, width - 1), loc="left", size=9, color=WARNING, pad=24)
    axis.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(scores), frameon=False, borderaxespad=0.2
    )
    figure.supxlabel(_categories_caption(rows, width), x=0.012, ha="left", size=8, color=SOFT)
    return figure


def _broken(name: str) -> str:
    return name.replace(", ", ",\n").replace(" ", "\n")


def _categories_caption(rows: list[Predictions], width: float) -> str:
    counts = sorted({len(row.seeds) for row in rows if row.seeds})
    seeds = (
        "1 seed"
        if counts == [1]
        else f"{' or '.join(map(str, counts))} seeds, bars ± sample standard deviation"
    )
    missing = [f"Missing: {row.missing()}." for row in rows if row.problems]
    text = f"Of the test segments of a category the share that is found. Mean over {seeds}."
    return "\n".join(wrapped(line, width - 0.5, 8) for line in [text, *missing])


def _category_scores(row: Predictions, classes: int) -> npt.NDArray[np.float64]:
    """(seeds, classes) in percent, NaN where the test split has no such segment."""
    tables = row.seeds.values()
    return 100 * np.stack(
        [category_accuracy(t["truth"].to_numpy(), t["prediction"].to_numpy(), classes) for t in tables]
    )


def _shown_categories(
    spec: CategoriesFigure, rows: list[Predictions], categories: tuple[str, ...]
) -> list[int]:
    """Indices of the groups of bars: those asked for, or those with most test segments, in the dataset's order."""
    options = spec.options
    for name in options.categories:
        if name not in categories:
            known = suggest(name, list(categories))
            raise ConfigError(f"figure {spec.name}: options.categories: no category {name!r}; {known}")
    truth = next(table["truth"] for row in rows for table in row.seeds.values())
    counts = np.bincount(truth, minlength=len(categories) + 1)
    most = [int(i) for i in np.argsort(-counts[:-1], kind="stable")[: options.limit] if counts[i]]
    shown = [categories.index(name) for name in options.categories] or sorted(most)
    return [*shown, *([len(categories)] if options.background and counts[-1] else [])]


def read_timeline(spec: SegmentsFigure, rows: list[Predictions], study: Study, results: Path) -> Timeline:
    """Choose the clip and gather what the timeline shows of it.

    Raises:
        ConfigError: if `spec.options` asks for a clip or a seed without predictions.
    """
    chosen = spec.options.seed
    if chosen is not None and chosen not in study.seeds:
        seeds = list(study.seeds)
        raise ConfigError(
            f"figure {spec.name}: options.seed: {chosen} is not among the study's seeds {seeds}"
        )
    tables = {row.method: _one_seed(row, chosen) for row in rows}
    first = next((table for table, _ in tables.values() if table is not None), None)
    if first is None:
        raise ConfigError(f"figure {spec.name}: options.seed: no row has predictions of seed {chosen}")
    categories = read_categories(results)
    clip = spec.options.clip or typical_clip(first, len(categories))
    if clip not in set(first["clip"]):
        raise ConfigError(f"figure {spec.name}: options.clip: {clip!r} is no test clip with predictions")
    predictions: dict[str, npt.NDArray[np.int64] | str] = {}
    for method, (table, said) in tables.items():
        if table is None:
            predictions[method] = said
        else:
            predictions[f"{method}, {said}"] = _labels(table, clip, "prediction")
    return Timeline(
        clip=clip,
        categories=categories,
        truth=_labels(first, clip, "truth"),
        predictions=predictions,
        **read_clip(clip, study.media.preset, results),
    )


def _one_seed(row: Predictions, chosen: int | None) -> tuple[pd.DataFrame | None, str]:
    """The predictions of one seed and "seed n"; or None and why there are none."""
    seeds = [seed for seed in row.seeds if chosen in (None, seed)]
    if seeds:
        return row.seeds[seeds[0]], f"seed {seeds[0]}"
    return None, "; ".join(row.problems)


def _labels(table: pd.DataFrame, clip: str, column: str) -> npt.NDArray[np.int64]:
    """(T,) labels of one clip."""
    return table[table["clip"] == clip].sort_values("segment")[column].to_numpy(dtype=np.int64)


def typical_clip(predictions: pd.DataFrame, background: int) -> str:
    """A clip whose event is shorter than the clip and whose accuracy is nearest to the mean of such clips.

    Ties go to the first name. Where no clip has both event and background, any clip may be chosen.
    """
    marked = predictions.assign(
        right=predictions["truth"] == predictions["prediction"], event=predictions["truth"] != background
    )
    clips = marked.groupby("clip", sort=True).agg(right=("right", "mean"), event=("event", "mean"))
    partial = clips[(clips["event"] > 0) & (clips["event"] < 1)]
    candidates = partial if len(partial) else clips
    return str((candidates["right"] - candidates["right"].mean()).abs().round(9).idxmin())


class ClipContent(TypedDict):
    """Frames (T, H, W, 3) and waveform (samples,) of a clip, or why there are none; and the picture's real aspect."""

    frames: npt.NDArray[np.uint8] | str
    waveform: npt.NDArray[np.float32] | str
    sample_rate: int
    aspect: float


def read_clip(clip: str, preset: str, results: Path) -> ClipContent:
    """One frame a second and the waveform of a clip, from its shard of segments."""
    clips = pd.read_parquet(results / "clips.parquet", columns=["clip", "shard", "width", "height"])
    chosen = clips[clips["clip"] == clip]
    if chosen.empty:
        return _without(f"clip {clip} is not in clips.parquet")
    row = chosen.iloc[0]
    path = results / "segments" / preset / f"{int(row['shard'])}.tar"
    if not path.is_file():
        return _without(f"{path} is missing")
    found = next((member for member in read_shard(path) if member.clip == clip), None)
    if found is None:
        return _without(f"clip {clip} is not in {path}")
    known = pd.notna(row["width"]) and pd.notna(row["height"]) and row["height"] > 0
    format_ = PRESETS[preset]
    return {
        "frames": "no video" if found.video is None else decode_frames(found.video, 1, format_),
        "waveform": "no audio" if found.audio is None else _mono(decode_audio(found.audio, format_)),
        "sample_rate": format_.sample_rate,
        "aspect": float(row["width"] / row["height"]) if known else 1.0,
    }


def _mono(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(samples,) or (samples, channels) -> (samples,)."""
    return waveform if waveform.ndim == 1 else waveform.mean(axis=1)


def _without(reason: str) -> ClipContent:
    return {"frames": reason, "waveform": reason, "sample_rate": CANONICAL.sample_rate, "aspect": 1.0}
