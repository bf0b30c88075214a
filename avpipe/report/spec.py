"""A paper's figure as data: its kind, its rows and its options.

One YAML file a figure in `workflow/figures/`: the keys of a table's file (see `avpipe.tables.spec`), one `setting`, a `kind`
(a name in `avpipe.report.KINDS`) and that kind's `options`. The workflow reads these files before it plans anything, so
reading them imports no torch and no matplotlib.

    kind: confusion
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

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from avpipe.plan.experiment import Setting
from avpipe.plan.registry import UnknownNameError, load
from avpipe.plan.section import ConfigError, Section
from avpipe.plan.study import Study
from avpipe.report import KINDS
from avpipe.tables.rows import Row, RowsSpec, checked, read_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from avpipe.report.style import Heading


class FigureSpec(RowsSpec):
    """A figure of a paper. A kind of figure is a subclass with its `options`, its `caption` and its `draw`."""

    kind: str
    setting: Setting = "supervised"
    options: Section = Field(default_factory=Section)

    caption: ClassVar[str]
    """What the figure shows; written below the figure and in Snakemake's report."""
    shows_clip: ClassVar[bool] = False
    """Whether drawing needs frames and audio of clips."""
    dataset_files: ClassVar[tuple[str, ...]] = ()
    """Files in the study's folder that drawing reads, other than runs and clips."""
    table_only: ClassVar[tuple[str, ...]] = ("published", "predictions")
    """Keys of a row that this kind of figure cannot show."""

    def draw(self, study: Study, results: Path, heading: "Heading") -> "Figure":
        """Draw the figure from the runs in `results`/runs.

        Raises:
            ConfigError: if `options` asks for a category, clip or seed that does not exist.
            NothingToDraw: if no run has what the figure shows.
        """
        raise NotImplementedError

    def run_files(self, study: Study) -> dict[str, tuple[int, ...]]:
        """Name of a file in a run's folder -> the seeds whose file is read."""
        return {"metrics.json": study.seeds, "predictions.parquet": study.seeds}

    def seed(self, study: Study) -> int:
        """`options.seed`, or the study's first seed.

        Raises:
            ConfigError: if the study does not have this seed.
        """
        seed: int | None = getattr(self.options, "seed", None)
        if seed is not None and seed not in study.seeds:
            message = f"options.seed: {seed} is not among the study's seeds {list(study.seeds)}"
            raise ConfigError(f"figure {self.name}: {message}")
        return study.seeds[0] if seed is None else seed

    def all_settings(self) -> tuple[Setting, ...]:
        """The figure's one setting."""
        return (self.setting,)

    def problems(self) -> Iterator[tuple[Row, str, str]]:
        """Mistakes in the rows, and keys that only a table can show."""
        yield from super().problems()
        for row in self.rows:
            for key in self.table_only:
                if getattr(row, key):
                    yield row, key, "only a table can show it"


def load_figure(path: Path, study: Study | None = None) -> FigureSpec:
    """Read `workflow/figures/{name}.yaml`.

    Raises:
        ConfigError: names file, row and key of each mistake; with `study`, also a seed that the study does not have.
    """
    return parse_figure(read_yaml(path), str(path), study)


def parse_figure(data: dict[str, Any], where: str, study: Study | None = None) -> FigureSpec:
    """Check the content of a figure's file; `where` (a path, or the figure's name) stands in error messages."""
    try:
        kind: type[FigureSpec] = load(KINDS, str(data.get("kind")), "kind of figure")
    except UnknownNameError as error:
        raise ConfigError(f"{where}: kind: {error}") from None
    spec = checked(kind, where, data)
    if study is not None:
        spec = spec.possible(study)
        spec.seed(study)
    return spec
