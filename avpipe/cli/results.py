"""Commands about results as a whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avpipe.cli.console import StudyOption, check_results, read_mapping, readable_errors
from avpipe.files import read_json

if TYPE_CHECKING:
    from avpipe.plan.plan import Plan

commands = typer.Typer(no_args_is_help=True, help="What is in a study's folder.")


@commands.callback()
def _group() -> None:
    """Without this, Typer would take the group's only command for the group itself."""


@commands.command("check")
@readable_errors
def check(
    study: StudyOption = "config.yaml",
    workflow: Annotated[Path, typer.Option(help="Folder that holds tables/ and figures/.")] = Path(
        "workflow"
    ),
    results: Annotated[Path | None, typer.Option(help="default: results/{dataset}")] = None,
) -> None:
    """List runs and arrays that today's code, configuration or inputs would make otherwise; exit with 1 if there are any.

    Snakemake does not see these where results were copied from another clone. Runs and arrays that the study does not ask
    for, or that are not made yet, are left out.
    """
    from avpipe.plan.plan import Plan
    from avpipe.plan.study import resolve, validate_study

    chosen = validate_study(read_mapping(study, "--study"), study)
    if chosen.folder or chosen.dataset.kind != "folder":
        chosen = resolve(chosen)
    plan = Plan(chosen, workflow)
    folder = results or Path(plan.results)
    check_results(folder, chosen.dataset.name, study)
    checked = [*_arrays(plan, folder), *_runs(plan, folder)]
    stale = [(path, differs) for path, differs in checked if differs]
    for path, differs in stale:
        typer.echo(f"{path}: other {', '.join(differs)}")
    if stale:
        typer.echo(
            f"{len(stale)} of {len(checked)} arrays and runs in {folder} are not what today's code, configuration and "
            "inputs would give. To have them made anew, remove them and run Snakemake."
        )
        raise typer.Exit(1)
    typer.echo(
        f"all {len(checked)} arrays and runs in {folder} are of today's code, configuration and inputs"
    )


def _arrays(plan: "Plan", results: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each array that is there, and what of it is not today's."""
    from avpipe.plan.plan import array_code

    for name in plan.features:
        path, inspected = results / "features" / f"{name}.zarr", results / "features" / f"{name}.json"
        if not (attributes := _attributes(path)):
            continue
        config, stored = plan.study.arrays[name], attributes.get("config", {})
        same = {
            "code": attributes.get("code") == array_code(config),
            "configuration": stored.items() <= config.model_dump(mode="json").items(),
            "inputs": not inspected.is_file() or read_json(inspected) == attributes.get("imported"),
        }
        yield path, [what for what, is_same in same.items() if not is_same]


def _runs(plan: "Plan", results: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each run that is there, and what of it is not today's."""
    from avpipe.clips import manifest_digest
    from avpipe.plan.plan import train_code

    for experiment in plan.experiments.values():
        arrays = {role: results / "features" / f"{name}.zarr" for role, name in experiment.features.items()}
        weights = {role: _attributes(path).get("sha256") for role, path in arrays.items()}
        code, manifest = train_code(experiment), manifest_digest(results)
        for path in sorted((results / "runs" / experiment.id).glob("seed*/metrics.json")):
            record = read_json(path)
            used = {role: feature["sha256"] for role, feature in record.get("features", {}).items()}
            same = {
                "code": record.get("code") == code,
                "configuration": record.get("experiment") == experiment.model_dump(mode="json"),
                "inputs": used == weights and record.get("manifest") == manifest,
            }
            yield path.parent, [what for what, is_same in same.items() if not is_same]


def _attributes(array: Path) -> dict[str, Any]:
    """The attributes of an array; none if there is no such array."""
    path = array / "zarr.json"
    attributes: dict[str, Any] = read_json(path)["attributes"] if path.is_file() else {}
    return attributes
