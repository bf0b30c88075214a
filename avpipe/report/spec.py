"""A paper's figure as data: its kind, its rows, and what it reads of their runs.

One YAML file a figure in `workflow/figures/`: the keys of a table's file (see `avpipe.tables.spec`), one `setting`, a `kind`
and the `options` of that kind. Read before anything is planned, so importing this module loads no torch and no pandas.

    kind: confusion                               # one of `_KINDS`, at the end of this file
    title: Confusion matrices                     # stands above the figure
    paper: ...
    printed: Figure 5
    task: localization
    setting: supervised
    defaults:
      features: {audio: vggish, visual: visual_map}
    rows:
      - {row: avel, method: AVEL, model: avel}
    options: {}
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from avpipe.plan.experiment import Setting, model_options
from avpipe.plan.registry import suggest
from avpipe.plan.section import ConfigError, Section
from avpipe.plan.study import Study
from avpipe.tables.spec import Row, Spec, checked, read_mapping


class FigureSpec(Spec):
    """A figure of a paper."""

    kind: Literal[
        "categories", "confusion", "curve", "events", "fscores", "grounding", "parsed", "segments", "tsne"
    ]
    setting: Setting = "supervised"
    _table_only: ClassVar[tuple[str, ...]] = ("gap", "published")

    @property
    def shows_clip(self) -> bool:
        """Whether it needs the clips themselves, not only what runs say of them."""
        return False

    @property
    def dataset_files(self) -> tuple[str, ...]:
        """Files in the study's folder that decide it, beside those of runs and the clips."""
        return ()

    def run_files(self, study: Study) -> dict[str, tuple[int, ...]]:
        """Name of a file in a run's folder -> the seeds of which the figure reads it."""
        return {"metrics.json": study.seeds, "predictions.parquet": study.seeds}

    def all_settings(self) -> tuple[Setting, ...]:
        """The figure's one setting."""
        return (self.setting,)

    def problems(self) -> Iterator[tuple[Row, str, str]]:
        """Those of any rows, and what only a table can show."""
        yield from super().problems()
        for row in self.rows:
            for key in self._table_only:
                if getattr(row, key):
                    yield row, key, "a figure cannot show it; leave it to the table"


class CategoriesOptions(Section):
    """Which categories stand in the bar chart."""

    categories: tuple[str, ...] = Field(
        default=(), description="these, in this order; empty: those with most test segments"
    )
    limit: int = Field(default=10, ge=1, description="how many, where `categories` is empty")
    background: bool = Field(default=True, description="one more group of bars for segments without an event")


class CategoriesFigure(FigureSpec):
    """Accuracy per category, bars of the rows side by side."""

    options: CategoriesOptions = Field(default_factory=CategoriesOptions)


class ConfusionFigure(FigureSpec):
    """Confusion matrices of the rows side by side: every category and background."""


class SegmentsOptions(Section):
    """Which clips the timelines show."""

    clips: int | tuple[str, ...] = Field(
        default=1,
        description="their ids; or how many: typical test clips, chosen by what the first row says of them",
    )
    seed: int | None = Field(
        default=None, description="whose predictions are shown; none: the study's first seed"
    )


class SegmentsFigure(FigureSpec):
    """The segments of test clips with the truth and each row's prediction."""

    options: SegmentsOptions = Field(default_factory=SegmentsOptions)

    @property
    def shows_clip(self) -> bool:
        """Frames and sound."""
        return True


class TSNEOptions(Section):
    """Which segments are mapped, and how."""

    categories: tuple[str, ...] = Field(
        default=(), description="these, in this order; empty: those with most test segments"
    )
    limit: int = Field(default=8, ge=2, description="how many, where `categories` is empty")
    seed: int | None = Field(default=None, description="whose model is shown; none: the study's first seed")
    perplexity: float = Field(default=30.0, gt=1, description="of t-SNE; at most a third of the segments")


class TSNEFigure(FigureSpec):
    """Features of the test segments before and after fusion, mapped by t-SNE, coloured by category."""

    options: TSNEOptions = Field(default_factory=TSNEOptions)

    def seed(self, study: Study) -> int:
        """The seed whose model is shown.

        Raises:
            ConfigError: if the study does not have the chosen seed.
        """
        return chosen_seed(self, self.options.seed, study)

    def run_files(self, study: Study) -> dict[str, tuple[int, ...]]:
        """One seed's, and the features that its model makes."""
        seeds = (self.seed(study),)
        return {"metrics.json": seeds, "predictions.parquet": seeds, "embeddings.npz": seeds}


class CurveOptions(Section):
    """What the curve shows over what."""

    option: str = Field(description="of the model; a number in every row")
    metric: str = Field(default="accuracy", description="a name in metrics.json")
    label: str | None = Field(default=None, description="how the option is written; none: its name")
    heading: str = Field(description="how the metric is written, with its unit")


class CurveFigure(FigureSpec):
    """A metric over a numeric option of the model: every row is a point, beside it the published number."""

    options: CurveOptions
    _table_only: ClassVar[tuple[str, ...]] = ("gap",)

    def run_files(self, study: Study) -> dict[str, tuple[int, ...]]:
        """Numbers only."""
        return {"metrics.json": study.seeds}

    def value(self, row: Row, study: Study | None = None) -> float:
        """The option's value in this row: its own, else the study's, else the model's default."""
        model, name = self.model_of(row) or "", self.options.option
        given = {**(study.models.get(model, {}) if study else {}), **row.options}
        return float(given.get(name, model_options(model)[name]["default"]))

    def published(self, row: Row) -> float | None:
        """The number that the paper prints, or None."""
        numbers = row.published.get(self.setting)
        return numbers.get(self.options.metric) if isinstance(numbers, dict) else numbers

    def problems(self) -> Iterator[tuple[Row, str, str]]:
        """Those of any figure, and rows that are no point."""
        wrong = list(super().problems())
        yield from wrong
        if wrong:
            return
        name, values = self.options.option, dict[str, float]()
        for row in self.rows:
            options = model_options(self.model_of(row) or "")
            if name not in options:
                yield row, "options", f"the figure's options.option: {suggest(name, list(options))}"
            elif options[name]["type"] not in ("int", "float"):
                yield (
                    row,
                    "options",
                    f"{name} is no number, but {options[name]['type']}: there is no curve over it",
                )
            else:
                values[row.row] = self.value(row)
        for row in self.rows:
            if Counter(values.values())[values.get(row.row, float("nan"))] > 1:
                yield row, "options", f"another row has {name} = {values[row.row]:g} too"


class EventsOptions(Section):
    """Which clips are counted."""

    splits: tuple[Literal["train", "val", "test"], ...] = Field(
        default=("test",), min_length=1, description="LLP's training clips have no events of audio and visual"
    )


class EventsFigure(FigureSpec):
    """In how many clips each category is heard, seen, or both at once. It has no rows."""

    task: str = "parsing"
    rows: tuple[Row, ...] = Field(default=(), max_length=0)
    options: EventsOptions = Field(default_factory=EventsOptions)

    @property
    def dataset_files(self) -> tuple[str, ...]:
        """Events, and which clips are in which split."""
        return "events.parquet", "categories.csv", "manifest.parquet"


class FScoresFigure(FigureSpec):
    """F-score of every category, of audio and of visual events, bars of the rows side by side."""


class GroundingFigure(FigureSpec):
    """The groups that a clip's segments are in, and how alike each row's model finds them."""

    options: SegmentsOptions = Field(default_factory=SegmentsOptions)

    @property
    def shows_clip(self) -> bool:
        """Frames and sound."""
        return True


class ParsedFigure(FigureSpec):
    """Audio and visual events of test clips, each row's prediction below the truth."""

    options: SegmentsOptions = Field(default_factory=SegmentsOptions)

    @property
    def shows_clip(self) -> bool:
        """Frames and sound."""
        return True


_KINDS: dict[str, type[FigureSpec]] = {
    "categories": CategoriesFigure,
    "confusion": ConfusionFigure,
    "curve": CurveFigure,
    "events": EventsFigure,
    "fscores": FScoresFigure,
    "grounding": GroundingFigure,
    "parsed": ParsedFigure,
    "segments": SegmentsFigure,
    "tsne": TSNEFigure,
}


def chosen_seed(spec: FigureSpec, seed: int | None, study: Study) -> int:
    """`seed`, or the study's first.

    Raises:
        ConfigError: if the study does not have it.
    """
    if seed is not None and seed not in study.seeds:
        raise ConfigError(
            f"figure {spec.name}: options.seed: {seed} is not among the study's seeds {list(study.seeds)}"
        )
    return study.seeds[0] if seed is None else seed


def load_figure(path: Path, study: Study | None = None) -> FigureSpec:
    """Read `workflow/figures/{name}.yaml`.

    Raises:
        ConfigError: names file, row and key of each mistake; with `study`, also extractors, recipes and seeds that the
            study does not have.
    """
    return parse_figure(read_mapping(path), str(path), study)


def parse_figure(data: dict[str, Any], where: str, study: Study | None = None) -> FigureSpec:
    """Check the content of a figure's file; `where` (a path, or the figure's name) stands in error messages."""
    kind = data.get("kind")
    if kind not in _KINDS:
        raise ConfigError(f"{where}: kind: found {kind!r}; known: {', '.join(_KINDS)}")
    spec = checked(_KINDS[kind], where, data, study)
    if study is not None:
        spec.run_files(study)
    return spec
