"""Shared by all commands: readable error messages, common options, and how values of options are read."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

if TYPE_CHECKING:
    from avpipe.plan.source import Source

P = ParamSpec("P")


def readable_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Print ValueError and OSError as one message without a traceback; exit with 1 (130 for Ctrl-C)."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            if "--debug" in sys.argv:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("stopped; finished work is kept, run the same command again to continue", err=True)
            raise typer.Exit(130) from None

    return wrapped


Out = Annotated[Path, typer.Option(help="Where the result goes; written whole or not at all.")]
Results = Annotated[Path, typer.Option(help="The study's folder, results/{dataset}.")]
StudyOption = Annotated[str, typer.Option(help="The study: a yaml or json file, or json itself.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Budgets = Annotated[
    Path | None,
    typer.Option(help="Folder of request budgets that jobs share; default: in the user's cache folder."),
]


def read_mapping(text: str, what: str) -> dict[str, Any]:
    """A mapping given as json, or as the name of a yaml or json file."""
    import yaml

    if not text.lstrip().startswith("{"):
        if not Path(text).is_file():
            raise ValueError(f"{what}: no file {text}")
        text = Path(text).read_text(encoding="utf-8")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{what} is not valid yaml: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a mapping, found {type(value).__name__}")
    return value


def check_results(results: Path, dataset: str, study: str) -> None:
    """Refuse results of another study.

    Args:
        results: the study's folder; manifest.json in it, or else the folder's name, says whose results they are.
        dataset: the name of the study's dataset.
        study: what the person gave as --study.

    Raises:
        ValueError: if the results are of another dataset.
    """
    from avpipe.files import read_json

    index = results / "manifest.json"
    found = read_json(index)["dataset"] if index.is_file() else results.resolve().name
    if found != dataset:
        where = "the study" if study.lstrip().startswith("{") else study
        raise ValueError(
            f"{results} has the results of {found}, but {where} is the study of {dataset}: name the right study's file "
            "with --study, or its folder with --results"
        )


def read_sources(texts: list[str] | None) -> list["Source"]:
    """Sources given as json."""
    from avpipe.plan.source import parse_source

    return [parse_source(read_mapping(text, "--source")) for text in texts or []]


def counted(counts: dict[Any, int]) -> str:
    """For example "240 present, 16 private"."""
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "nothing to do"
