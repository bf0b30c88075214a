"""Commands of the tables: `avpipe tables write` and `avpipe why`."""

from pathlib import Path
from typing import Annotated

import typer

from avpipe.cli.console import Results, StudyOption, check_results, read_mapping, readable_errors

commands = typer.Typer(no_args_is_help=True, help="Runs to the tables of papers.")


@commands.command("write")
@readable_errors
def table_write(
    table: Annotated[str, typer.Argument(help="Name of a table.")],
    spec: Annotated[str, typer.Option(help="Its file in workflow/tables, or the file's content as json.")],
    study: StudyOption,
    results: Results,
) -> None:
    """Write one table as csv, md, tex and html."""
    from avpipe.plan.study import validate_study
    from avpipe.tables.aggregate import write_table
    from avpipe.tables.spec import parse_table

    chosen = validate_study(read_mapping(study, "--study"), "--study")
    check_results(results, chosen.dataset.name, study)
    write_table(table, parse_table(read_mapping(spec, "--spec"), table, chosen), chosen, results)


@readable_errors
def why(
    table: Annotated[str, typer.Argument()],
    row: Annotated[str, typer.Argument()],
    metric: Annotated[str, typer.Argument()],
    setting: Annotated[
        str | None, typer.Option(help="supervised or weakly-supervised; default: all of the table's.")
    ] = None,
    study: StudyOption = "config.yaml",
    workflow: Annotated[Path, typer.Option(help="Folder that holds tables/.")] = Path("workflow"),
    results: Annotated[Path | None, typer.Option(help="default: results/{dataset}")] = None,
) -> None:
    """Say where a cell of a table comes from: runs, numbers, configuration, code, environment, log."""
    from avpipe.plan.plan import check_study
    from avpipe.plan.study import validate_study
    from avpipe.tables.aggregate import why as explain
    from avpipe.tables.spec import load_table

    chosen = validate_study(read_mapping(study, "--study"), study)
    check_study(chosen)
    folder = results or Path("results") / chosen.dataset.name
    check_results(folder, chosen.dataset.name, study)
    spec = load_table(workflow / "tables" / f"{table}.yaml", chosen)
    typer.echo(explain(table, row, metric, setting, spec, chosen, folder))
