"""Separated sounds of test mixtures: what the network saw, and the spectrograms of the mixture, its two sounds and the truth."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from avpipe.plan.section import Section
from avpipe.plan.study import Study
from avpipe.report.predictions import missing_lines, read_rows
from avpipe.report.spec import FigureSpec
from avpipe.report.style import Heading, framed_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "mixture": "mixture", "on": "on-screen, predicted", "true_on": "on-screen, true", "off": "off-screen, predicted",
    "true_off": "off-screen, true",
}  # fmt: skip
"""Column of predictions.parquet -> what stands above it."""
RANGE = 60
"""Decibels below the mixture's loudest value that are shown."""
_PANEL = 1.6
"""Inches of a picture."""


class SpectrogramsOptions(Section):
    """How many mixtures are shown, and whose separation."""

    clips: int = Field(
        default=3, ge=1, le=4, description="mixtures of each row, the first ones of the test split"
    )
    seed: int | None = Field(default=None, description="whose predictions are shown; none: the first seed")


class SpectrogramsFigure(FigureSpec):
    """The pictures that a network saw, beside the spectrograms of what it heard and of what it made of that."""

    options: SpectrogramsOptions = Field(default_factory=SpectrogramsOptions)
    caption = (
        f"Up: frequency, 0 to 10.5 kHz; to the right: time. Brightness: the upper {RANGE} dB of each mixture. The frame is the "
        "middle one of those that the network saw."
    )

    def run_files(self, study: Study) -> dict[str, tuple[int, ...]]:
        """Those of one seed."""
        return dict.fromkeys(super().run_files(study), (self.seed(study),))

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """A line for each mixture of each row."""
        seed = self.seed(study)
        rows = read_rows(self, study, results, seeds=(seed,))
        lines = [
            (row.method, mixture)
            for row in rows
            for table in row.seeds.values()
            for mixture in table.dropna(subset=["frame"]).head(self.options.clips).to_dict("records")
        ]
        size = (_PANEL * (len(TITLES) + 1) + 1.2, (_PANEL + 0.25) * len(lines))
        figure = framed_figure(size, heading, [f"{self.caption} Seed {seed}.", *missing_lines(rows)])
        axes = figure.subplots(len(lines), len(TITLES) + 1, squeeze=False)
        for number, (line, (method, mixture)) in enumerate(zip(axes, lines, strict=True)):
            _draw_mixture(line, mixture, titles=number == 0)
            line[0].set_ylabel(method, size=8)
        return figure


def _draw_mixture(axes: "np.ndarray[Any, Any]", mixture: Mapping[Any, Any], titles: bool) -> None:
    """One line: the frame, then the spectrograms."""
    size = int(mixture["height"]), int(mixture["width"]), 3
    _draw(axes[0], np.frombuffer(mixture["frame"], np.uint8).reshape(size), "shown" if titles else "")
    axes[0].set_xlabel(f"{mixture['clip']}\n+ {mixture['other']}", size=6)
    loudest = float(np.max(mixture["mixture"]))
    for axis, (name, title) in zip(axes[1:], TITLES.items(), strict=True):
        bands = np.reshape(mixture[name], (64, -1))
        _draw(axis, bands, title if titles else "", origin="lower", aspect="auto", cmap="magma", vmin=loudest - RANGE,
              vmax=loudest)  # fmt: skip


def _draw(axis: "Axes", picture: "np.ndarray[Any, Any]", title: str, **how: Any) -> None:
    axis.imshow(picture, **how)
    axis.set_title(title, size=8)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)
