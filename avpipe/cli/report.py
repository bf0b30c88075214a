"""Commands of the figures."""

from typing import Annotated

import typer

from avpipe.cli.console import Results, StudyOption, check_results, read_mapping, readable_errors

commands = typer.Typer(no_args_is_help=True, help="Runs and clips to figures.")


@commands.command("figure")
@readable_errors
def figure(
    name: Annotated[str, typer.Argument(help="Name of a figure.")],
    spec: Annotated[str, typer.Option(help="Its file in workflow/figures, or the file's content as json.")],
    study: StudyOption,
    results: Results,
) -> None:
    """Draw one figure as svg and png."""
    from avpipe.plan.study import validate_study
    from avpipe.report.figures import draw_figure
    from avpipe.report.spec import parse_figure

    chosen = validate_study(read_mapping(study, "--study"), "--study")
    check_results(results, chosen.dataset.name, study)
    draw_figure(name, parse_figure(read_mapping(spec, "--spec"), name, chosen), chosen, results)
