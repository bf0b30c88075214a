"""Draw a paper's figure and write it as svg and png. A figure without any run says so and stops no other figure."""

from pathlib import Path

from avpipe.plan.study import Study
from avpipe.report.predictions import NothingToDraw
from avpipe.report.spec import FigureSpec
from avpipe.report.style import Heading, figure_style, framed_figure, write_figure
from avpipe.tables.runs import notice


def draw_figure(name: str, spec: FigureSpec, study: Study, results: Path) -> None:
    """Draw the figure `spec` from the runs in `results`/runs and write `results`/figures/{name}.svg and .png.

    Args:
        name: of the files.
        spec: what `load_figure` read from workflow/figures.
        study: extractors, seeds, media preset and notice.
        results: the study's folder, results/{dataset}.

    Raises:
        ConfigError: if the figure asks for a category, a clip or a seed that does not exist.
    """
    said = notice(study, spec.experiments(study).values())
    heading = Heading(f"[{said.tag}] {spec.title}", said.text) if said else Heading(spec.title)
    with figure_style():
        try:
            figure = spec.draw(study, results, heading)
        except NothingToDraw as nothing:
            figure = framed_figure((9.0, 0.1), heading, [str(line) for line in nothing.args])
        write_figure(figure, results / "figures" / name, heading.title)
