"""`avpipe plan STUDY`: what a study takes, before it starts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from avpipe.cli.console import read_mapping, readable_errors

if TYPE_CHECKING:
    from avpipe.plan.cost import Cost


@readable_errors
def plan(
    study: Annotated[
        str, typer.Argument(help="The study: a yaml or json file, or json itself.")
    ] = "config.yaml",
    clips: Annotated[int | None, typer.Option(min=1, help="How many clips, if no file says so yet.")] = None,
    shards: Annotated[str | None, typer.Option(help="Only these shards, for example 0-99.")] = None,
    folder: Annotated[
        str | None, typer.Option(help="The folder of videos, for a dataset of kind folder.")
    ] = None,
) -> None:
    """Print what a study takes before it starts: jobs, processor time, disk, days of download, memory."""
    from pathlib import Path

    import avpipe
    from avpipe.plan.cost import study_cost
    from avpipe.plan.plan import Plan
    from avpipe.plan.study import resolve, validate_study

    config = read_mapping(study, "STUDY") | ({"folder": folder} if folder else {})
    chosen = resolve(validate_study(config, study))
    workflow = Path(avpipe.__file__).parent.parent / "workflow"
    cost = study_cost(Plan(chosen, workflow), clips, _range(shards))
    for line in lines(cost, study):
        typer.echo(line)


def _range(text: str | None) -> tuple[int, int] | None:
    """ "0-99" or "7" as first and last."""
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise ValueError(f"--shards: expected a range such as 0-99, found {text!r}")
    return int(first), int(last or first)


def lines(cost: "Cost", study: str) -> list[str]:
    """The text that the command prints."""
    rows = [("jobs of a kind", "jobs", "core hours", "disk")]
    rows += [
        (s.kind, f"{s.jobs:,}", _hours(s.core_hours), _size(s.disk) if s.disk != 0 else "")
        for s in cost.stages
    ]
    hours = _sum([stage.core_hours for stage in cost.stages], _hours)
    disk = _sum([stage.disk for stage in cost.stages], _size)
    rows.append(("in all", f"{cost.jobs:,}", hours, disk))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    text = [f"{cost.clips:,} clips ({cost.counted})", ""]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in (1, 2, 3))]
        text.append("  ".join(cells).rstrip())
    days = "?" if cost.download_days is None else f"{cost.download_days:,.1f}"
    text += [
        "",
        f"days of download  {days}" + (", if no clip is here yet" if cost.download_days else ""),
        f"largest job       {cost.memory_mb / 1000:.1f} GB of memory ({cost.largest})",
        "hours of a GPU    ? (none was measured)",
        "",
        "?: not measured. After a few shards (--shards 0-3) this study's own rates and sizes are used.",
        "Disk of features is that before compression. Core hours are of one CPU core, by",
    ]
    text += [f"  {stage.kind}: {stage.source}" for stage in cost.stages if stage.source]
    if cost.targets:
        command = f"snakemake --cores all {cost.targets}"
        text += ["", "These shards only, in bash:", f"  {command} --configfile {study}"]
    return text


def _sum(amounts: list[float | None], text: Callable[[float | None], str]) -> str:
    """The sum, "> " before it if an amount is missing; "?" if all that is there is 0."""
    known = sum(amount for amount in amounts if amount)
    gap = None in amounts
    return f"{'> ' * gap}{text(known)}" if known or not gap else "?"


def _hours(amount: float | None) -> str:
    if amount is None:
        return "?"
    return "" if amount == 0 else f"{amount:,.0f}" if amount >= 10 else f"{amount:.2f}"


def _size(amount: float | None) -> str:
    if amount is None:
        return "?"
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.1f} TB"
