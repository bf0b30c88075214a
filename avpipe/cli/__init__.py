"""`avpipe STAGE ...`: one file a stage. Each command parses its arguments and calls one function."""

import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from avpipe import __version__
from avpipe.cli import (
    datasets,
    download,
    features,
    localize,
    media,
    plan,
    report,
    results,
    separation,
    tables,
    training,
)
from avpipe.cli.console import Budgets, readable_errors

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for stage in (datasets, download, media, features, tables, report, results):
    app.add_typer(stage.commands, name=stage.__name__.rpartition(".")[2])
app.add_typer(features.weights_commands, name="weights")
app.command("import")(features.import_)
app.command("export")(features.export)
app.command("train")(training.train)
app.command("embed")(training.embed)
app.command("separate")(separation.separate)
app.command("why")(tables.why)
app.command("plan")(plan.plan)
app.command("localize")(localize.localize)


@app.callback()
def main(
    debug: Annotated[bool, typer.Option(help="Show Python's traceback of an error.")] = False,
    version: Annotated[bool, typer.Option(help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"avpipe {__version__}")
        raise typer.Exit
    job = os.environ.get("SLURM_JOB_ID")
    if job:  # the first line of a log tells whether it is this attempt's or the one's before
        typer.echo(f"Slurm job {job} on {socket.gethostname()}, {datetime.now():%Y-%m-%d %H:%M:%S}", err=True)


@app.command("doctor")
@readable_errors
def examine_machine(
    results: Annotated[Path, typer.Option(help="Where studies write.")] = Path("results"),
    budgets: Budgets = None,
) -> None:
    """Check that everything a study needs is installed; exit with 1 if something is missing."""
    from rich.console import Console

    from avpipe.cli.doctor import Verdict, check_table, examine
    from avpipe.download.budget import budget_folder

    checks = examine(results, budgets or budget_folder())
    Console(width=None if sys.stdout.isatty() else 160).print(check_table(checks))
    if any(check.verdict is Verdict.FAIL for check in checks):
        raise typer.Exit(1)
