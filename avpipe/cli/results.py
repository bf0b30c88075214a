"""Commands about results as a whole, and about maps that were made elsewhere."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avpipe.cli.console import StudyOption, check_results, read_mapping, readable_errors
from avpipe.files import read_json, write_json

if TYPE_CHECKING:
    from avpipe.plan.plan import Plan

commands = typer.Typer(no_args_is_help=True, help="What is in a study's folder.")


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


@commands.command("score-sources")
@readable_errors
def score_sources(
    truth: Annotated[
        Path,
        typer.Option(
            help="Where the sources are: VGG-SS's vggss.json, Flickr-SoundNet's folder of xml files, or a csv file with the "
            "columns clip,time,x0,y0,x1,y1,on_screen."
        ),
    ],
    maps: Annotated[
        Path,
        typer.Option(help="Folder of the maps, {clip}.npy, (H, W) or (T, H, W), higher where the source is."),
    ],
    threshold: Annotated[
        str,
        typer.Option(
            help="From where a map's pixel counts as found: median (half of the picture, the field's protocol), adaptive (as "
            "many pixels as the truth has), or a number from 0 to 1."
        ),
    ] = "median",
    seconds: Annotated[
        float | None,
        typer.Option(help="Length of the clips; needed for maps over time where annotations have times."),
    ] = None,
    confidences: Annotated[
        Path | None,
        typer.Option(
            help="csv file with the columns clip,confidence: how sure it is that a source is in the picture; default: a map's "
            "maximum."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="json file of the scores to write.")] = None,
) -> None:
    """Score maps of sound sources, made by any method: cIoU, AUC, pointing, and AP and max-F1 with negatives.

    Clips without a map are counted and named, and are in no score. Two baselines are scored on the same pictures: the whole
    image, and its centre.
    """
    import numpy as np

    from avpipe.metrics import source_localization as metric
    from avpipe.metrics.source_annotations import read_annotated_frames

    listed = read_annotated_frames(truth)
    clips = {frame.clip for frame in listed}
    files = {clip: maps / f"{clip}.npy" for clip in clips}
    loaded = {clip: np.load(file, mmap_mode="r") for clip, file in files.items() if file.is_file()}
    missing = sorted(clips - set(loaded))
    frames = [frame for frame in listed if frame.clip in loaded]
    if missing:
        named = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        typer.echo(f"{len(missing)} of {len(clips)} clips have no map in {maps} and are in no score: {named}")
    limit = metric.parse_threshold(threshold)
    given = None if confidences is None else _confidences(confidences)
    scores = {"maps": metric.score_sources(frames, loaded, given, seconds=seconds, threshold=limit)}
    for name, baseline in (("whole image", metric.whole_image()), ("centre", metric.centre())):
        scores[name] = metric.score_sources(frames, dict.fromkeys(loaded, baseline), threshold=limit)
    positives = sum(frame.on_screen for frame in frames)
    typer.echo(f"{positives} pictures with a source, {len(frames) - positives} without; threshold: {limit}")
    typer.echo(" " * 12 + "".join(f"{name:>13}" for name in scores))
    for key, what in metric.METRICS.items():
        values = "".join(f"{what.printed(found[key]):13.{what.decimals}f}" for found in scores.values())
        typer.echo(f"{what.heading:<12}{values}")
    if out is not None:
        counts = {"with_source": positives, "without_source": len(frames) - positives}
        write_json(out, {"scores": scores, "pictures": counts, "missing": missing, "threshold": limit})


def _confidences(path: Path) -> dict[str, float]:
    """Clip -> confidence, from a csv file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return {row["clip"]: float(row["confidence"]) for row in csv.DictReader(file)}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: expected the columns clip,confidence; {error}") from None


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
        code, manifest = train_code(experiment), manifest_digest(results)
        for path in sorted((results / "runs" / experiment.id).glob("seed*/metrics.json")):
            record = read_json(path)
            arrays = experiment.arrays(record["seed"])
            weights = {
                role: _attributes(results / "features" / f"{name}.zarr").get("sha256")
                for role, name in arrays.items()
            }
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
