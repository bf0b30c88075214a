"""The papers' figures from runs and clips, as svg and png. What is missing is said in the figure; it never stops the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from avpipe.plan.study import Study
from avpipe.report.categories import draw_categories
from avpipe.report.clips import draw_segments
from avpipe.report.confusion import draw_confusion
from avpipe.report.curve import draw_curve
from avpipe.report.events import draw_events
from avpipe.report.fscores import draw_fscores
from avpipe.report.grounding import draw_grounding
from avpipe.report.parsed import draw_parsed
from avpipe.report.predictions import NothingToDraw
from avpipe.report.spec import (
    CategoriesFigure,
    ConfusionFigure,
    CurveFigure,
    EventsFigure,
    FigureSpec,
    FScoresFigure,
    GroundingFigure,
    ParsedFigure,
    SegmentsFigure,
    TSNEFigure,
)
from avpipe.report.style import Heading, figure_style, message_figure, write_figure
from avpipe.report.tsne import draw_tsne
from avpipe.tables.runs import notice

DRAWINGS: dict[type[FigureSpec], Callable[[Any, Study, Path, Heading], Figure]] = {
    CategoriesFigure: draw_categories,
    ConfusionFigure: draw_confusion,
    CurveFigure: draw_curve,
    EventsFigure: draw_events,
    FScoresFigure: draw_fscores,
    GroundingFigure: draw_grounding,
    ParsedFigure: draw_parsed,
    SegmentsFigure: draw_segments,
    TSNEFigure: draw_tsne,
}
"""Kind of figure -> what draws it. Each raises `NothingToDraw` where no run gives anything to see."""


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
    said = notice(study, spec.experiments(study).values())
    heading = Heading(f"[{said.tag}] {spec.title}", said.text) if said else Heading(spec.title)
    with figure_style():
        try:
            figure = DRAWINGS[type(spec)](spec, study, results, heading)
        except NothingToDraw as nothing:
            figure = message_figure(heading, [str(line) for line in nothing.args])
        write_figure(figure, results / "figures" / name, heading.title)
