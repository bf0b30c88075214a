"""Commands of downloading: clip names to files on disk."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from avpipe.cli.console import (
    Budgets,
    Results,
    StudyOption,
    check_results,
    counted,
    read_mapping,
    read_sources,
    readable_errors,
)

commands = typer.Typer(no_args_is_help=True, help="Clip names to files on disk.")

Sources = Annotated[
    list[str] | None, typer.Option("--source", help="A source as json; sources are tried in the order given.")
]


@commands.command("shard")
@readable_errors
def download_shard(
    manifest: Annotated[Path, typer.Option(help="manifest.parquet.")],
    shard: Annotated[int, typer.Option()],
    out: Annotated[Path, typer.Option(help="Table of outcomes, one row per clip.")],
    files: Annotated[Path, typer.Option(help="Folder for downloaded files; kept when the job fails.")],
    source: Sources = None,
    budgets: Budgets = None,
) -> None:
    """Find or download the clips of one shard."""
    from avpipe.download.budget import budget_folder
    from avpipe.download.fetch import Places, fetch_shard
    from avpipe.download.status import left_for_later
    from avpipe.lock import sole_writer

    places = Places(files, budgets or budget_folder())
    with sole_writer(out.with_name(f".{out.name}.lock"), f"fetch shard {shard}"):
        counts = fetch_shard(manifest, shard, read_sources(source), out, places, report=typer.echo)
    typer.echo(counted(counts))
    if left := left_for_later(counts):
        typer.echo(left)


@commands.command("status")
@readable_errors
def download_status(
    results: Results,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the counts by split and status as json.")
    ] = False,
) -> None:
    """Count the clips by split and status, from R/downloads and, for what decoding showed, R/clips.parquet."""
    from rich.console import Console

    from avpipe.download.status import clip_statuses, count, left_for_later, status_table

    statuses = clip_statuses(results)
    if json_:
        typer.echo(json.dumps(count(statuses), indent=2))
        return
    Console(width=None if sys.stdout.isatty() else 160).print(status_table(statuses))
    if left := left_for_later(statuses):
        typer.echo(left)


@commands.command("retry")
@readable_errors
def download_retry(
    results: Annotated[
        Path | None, typer.Option(help="The study's folder; default: results/{dataset}.")
    ] = None,
    study: StudyOption = "config.yaml",
    reason: Annotated[
        list[str] | None,
        typer.Option(
            help="Only clips with this status; may be repeated. Default: all that another attempt may find."
        ),
    ] = None,
    shard: Annotated[list[int] | None, typer.Option(help="Only this shard; may be repeated.")] = None,
    source: Sources = None,
    budgets: Budgets = None,
) -> None:
    """Try again to get missing clips; those with a final status only with --reason. Sources: the study's, or --source."""
    from avpipe.clips import Status
    from avpipe.download.budget import budget_folder
    from avpipe.download.status import left_for_later, retry
    from avpipe.plan.registry import UnknownNameError, suggest
    from avpipe.plan.study import resolve, validate_study

    sources = read_sources(source)
    if not sources or results is None:
        chosen = resolve(validate_study(read_mapping(study, "--study"), study)).dataset
        sources = sources or list(chosen.sources)
        results = results or Path("results") / chosen.name
        check_results(results, chosen.name, study)
    for name in reason or []:
        if name not in set(Status):
            raise UnknownNameError(
                f"--reason: no status {name!r}; {suggest(name, [status.value for status in Status])}"
            )
    reasons = [Status(name) for name in reason or []]
    counts = retry(results, sources, budgets or budget_folder(), reasons, shard or [])
    typer.echo(f"asked again: {counted(counts)}")
    if left := left_for_later(counts):
        typer.echo(left)
