"""`avpipe STAGE ...`: parses arguments and calls one function. All that the workflow's rules ever call."""

import json
import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from avpipe import __version__

if TYPE_CHECKING:
    from avpipe.config.imported import ImportedConfig
    from avpipe.config.source import Source

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def group(name: str, about: str) -> typer.Typer:
    """A stage's commands."""
    stage = typer.Typer(no_args_is_help=True, help=about)
    app.add_typer(stage, name=name)
    return stage


datasets = group("datasets", "Annotation files to manifest: which clips exist and what is true of them.")
download = group("download", "Clip names to files on disk.")
media = group("media", "Files to canonical clips in tar shards.")
features = group("features", "Canonical clips to zarr arrays.")
weights = group("weights", "Published weights of the backbones.")
tables = group("tables", "Runs to the tables of papers.")
report = group("report", "Runs and clips to figures.")

P = ParamSpec("P")


def readable_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Print errors that a person can mend as one message, without a traceback; exit with 1 (130 for Ctrl-C)."""

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
            typer.echo("stopped; finished work is kept, run the same command again to go on", err=True)
            raise typer.Exit(130) from None

    return wrapped


Out = Annotated[Path, typer.Option(help="Where the result goes; written whole or not at all.")]
Results = Annotated[Path, typer.Option(help="The study's folder, results/{dataset}.")]
StudyOption = Annotated[str, typer.Option(help="The study: a yaml or json file, or json itself.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
WeightNames = Annotated[
    list[str] | None, typer.Argument(help="Names that `avpipe weights list` prints; default: all.")
]
WeightsFolder = Annotated[
    Path | None, typer.Option(help="Folder of downloaded weights; default: the user's cache folder.")
]

Sources = Annotated[
    list[str] | None, typer.Option("--source", help="json of a source; tried in the order given.")
]
Budgets = Annotated[
    Path | None,
    typer.Option(help="Folder of request budgets that jobs share; default: in the user's cache folder."),
]


def _mapping(text: str, what: str) -> dict[str, Any]:
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


def _sources(texts: list[str] | None) -> list["Source"]:
    """Sources given as json."""
    from avpipe.config.source import Source

    return [Source.model_validate(_mapping(text, "--source")) for text in texts or []]


def _counts(counts: dict[Any, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "nothing to do"


def _imported(text: str) -> tuple[str, "ImportedConfig"]:
    """Name and settings of one imported feature."""
    from pydantic import ValidationError

    from avpipe.config.imported import ImportedConfig
    from avpipe.config.section import NAME, describe

    (name, settings), *_ = _mapping(text, "the feature").items()
    if not re.match(NAME, name):
        raise ValueError(f"name {name!r}: letters, digits, _ and - only")
    try:
        return name, ImportedConfig.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"the feature {name} is wrong:\n{describe(error, ImportedConfig)}") from None


@app.callback()
def main(
    debug: Annotated[bool, typer.Option(help="Show Python's traceback of an error.")] = False,
    version: Annotated[bool, typer.Option(help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"avpipe {__version__}")
        raise typer.Exit


@datasets.command("demo")
@readable_errors
def demo(
    out: Out, options: Annotated[str, typer.Option(help="json: how many clips, the seed, ...")] = "{}"
) -> None:
    """Render the demo dataset: mp4 files and annotation files in the formats of AVE and LLP."""
    from avpipe import lazy
    from avpipe.datasets.demo import render_demo

    chosen = _mapping(options, "--options")
    lazy.check_options("avpipe.datasets.demo:render_demo", chosen, "the demo dataset")
    render_demo(out, **chosen)


@datasets.command("manifest")
@readable_errors
def manifest(
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    kind: Annotated[str, typer.Option(help="Format of its annotation files: ave, llp, folder, demo.")],
    annotations: Annotated[
        Path, typer.Option(help="Folder of its annotation files (for `folder`, of the videos).")
    ],
    out: Out,
    shard_size: Annotated[int, typer.Option(help="Clips a job.")] = 256,
    options: Annotated[str, typer.Option(help="json: options of the reader.")] = "{}",
    source: Annotated[
        list[str] | None, typer.Option(help="json of a source (kind, path, pattern); may be repeated.")
    ] = None,
) -> None:
    """Read annotation files; write manifest.parquet, events.parquet, categories.csv, issues.csv to the folder OUT."""
    from avpipe.datasets import read_annotations
    from avpipe.datasets.manifest import write_manifest

    sources = _sources(source)
    local = [(Path(s.path), s.pattern) for s in sources if s.path]
    read = read_annotations(kind, annotations, **_mapping(options, "--options"))
    index = write_manifest(read, name, out, shard_size, local)
    typer.echo(
        f"{index['clips']} clips in {len(index['shards'])} shards: {_counts(index['splits'])}; issues: {_counts(index['issues'])}"
    )


@download.command("shard")
@readable_errors
def download_shard(
    manifest: Annotated[Path, typer.Option(help="manifest.parquet.")],
    shard: Annotated[int, typer.Option()],
    out: Annotated[Path, typer.Option(help="Table of outcomes, one row a clip.")],
    files: Annotated[Path, typer.Option(help="Folder for downloaded files; kept when the job fails.")],
    source: Sources = None,
    budgets: Budgets = None,
) -> None:
    """Find or download the clips of one shard."""
    from avpipe.download.budget import budget_folder
    from avpipe.download.fetch import Places, fetch_shard
    from avpipe.download.status import left_for_later

    places = Places(files, budgets or budget_folder(os.environ))
    counts = fetch_shard(manifest, shard, _sources(source), out, places)
    typer.echo(_counts(counts))
    if left := left_for_later(counts):
        typer.echo(left)


@download.command("status")
@readable_errors
def download_status(
    results: Results,
    json_: Annotated[bool, typer.Option("--json", help="Counts a split and a status, as json.")] = False,
) -> None:
    """What became of the clips, a split and a reason: R/downloads, and R/clips.parquet for what decoding showed."""
    from rich.console import Console

    from avpipe.download.status import clip_statuses, count, left_for_later, status_table

    statuses = clip_statuses(results)
    if json_:
        typer.echo(json.dumps(count(statuses), indent=2))
        return
    Console(width=None if sys.stdout.isatty() else 160).print(status_table(statuses))
    if left := left_for_later(statuses):
        typer.echo(left)


@download.command("retry")
@readable_errors
def download_retry(
    results: Annotated[
        Path | None, typer.Option(help="The study's folder; default: results/{dataset}.")
    ] = None,
    study: StudyOption = "config.yaml",
    reason: Annotated[
        list[str] | None,
        typer.Option(help="Only clips with this status; may be repeated. Default: all that may still come."),
    ] = None,
    shard: Annotated[list[int] | None, typer.Option(help="Only this shard; may be repeated.")] = None,
    source: Sources = None,
    budgets: Budgets = None,
) -> None:
    """Ask again for clips that did not come; final outcomes only with --reason. Sources are the study's, or --source."""
    from avpipe.config.study import resolve, validate_study
    from avpipe.download.budget import budget_folder
    from avpipe.download.outcome import Status
    from avpipe.download.status import left_for_later, retry
    from avpipe.lazy import UnknownNameError, suggest

    sources = _sources(source)
    if not sources or results is None:
        chosen = resolve(validate_study(_mapping(study, "--study"), study)).dataset
        if results is not None and results.resolve().name != chosen.name:
            raise ValueError(
                f"{study} is the study of {chosen.name}, not of {results}: name its file with --study"
            )
        sources = sources or list(chosen.sources)
        results = results or Path("results") / chosen.name
    for name in reason or []:
        if name not in set(Status):
            raise UnknownNameError(f"--reason: no status {name!r}; {suggest(name, [*Status])}")
    reasons = [Status(name) for name in reason or []]
    counts = retry(results, sources, budgets or budget_folder(os.environ), reasons, shard or [])
    typer.echo(f"asked again: {_counts(counts)}")
    if left := left_for_later(counts):
        typer.echo(left)


@media.command("normalise")
@readable_errors
def normalise(
    downloads: Annotated[Path, typer.Option(help="The shard's table of downloads.")],
    manifest: Annotated[Path, typer.Option(help="manifest.parquet.")],
    shard: Annotated[int, typer.Option()],
    tar: Annotated[Path, typer.Option(help="The tar of canonical clips to write.")],
    table: Annotated[Path, typer.Option(help="The table of outcomes to write.")],
    preset: Annotated[str, typer.Option(help="Canonical format.")] = "canonical",
    timeout: Annotated[float, typer.Option(help="Seconds a clip may take.")] = 120.0,
    workers: Annotated[int, typer.Option(help="ffmpeg processes at a time.")] = 1,
) -> None:
    """Turn one shard's files into canonical clips: exact length, frame rate, size and sample rate."""
    from avpipe.media.normalise import normalise_shard

    typer.echo(_counts(normalise_shard(downloads, manifest, shard, preset, tar, table, timeout, workers)))


@media.command("clips")
@readable_errors
def clips(
    manifest: Annotated[Path, typer.Option(help="manifest.parquet.")],
    out: Annotated[Path, typer.Option(help="clips.parquet.")],
    tables: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the shards' tables of outcomes, {shard}.parquet; none where nothing was fetched."
        ),
    ] = None,
) -> None:
    """Gather what became of every clip that the annotations name into clips.parquet."""
    from avpipe.media.clips import gather_clips

    gather_clips(manifest, tables, out)


@features.command("extract")
@readable_errors
def extract(
    extractor: Annotated[
        list[str],
        typer.Option(
            help="Name of an array, or json {name: {backbone: ..., ...}}; repeated extractors share one decoding of each clip."
        ),
    ],
    segments: Annotated[Path, typer.Option(help="The shard's tar of canonical clips.")],
    manifest: Annotated[Path, typer.Option(help="manifest.json.")],
    shard: Annotated[int, typer.Option()],
    out: Annotated[Path, typer.Option(help="Folder of the arrays, features/.")],
    device: Device = "auto",
    weights: WeightsFolder = None,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Compute features of one shard. A bare name (resnet152) means that backbone with the published settings."""
    from avpipe.config.extractor import ExtractorConfig
    from avpipe.features.extract import extract_shard
    from avpipe.features.spec import published_config
    from avpipe.features.weights import default_folder

    configs: dict[str, ExtractorConfig] = {}
    for text in extractor:
        if text.lstrip().startswith("{"):
            named = _mapping(text, "--extractor")
            configs |= {name: ExtractorConfig.model_validate(config) for name, config in named.items()}
        else:
            configs[text] = published_config(text)
    folder = weights or default_folder(os.environ)
    timings = extract_shard(
        segments, manifest, shard, configs, out, device=device, weights_folder=folder, threads=threads
    )
    typer.echo(json.dumps(timings))


@features.command("inspect")
@readable_errors
def inspect(
    imported: Annotated[str, typer.Argument(help="json {name: {path: ..., format: ..., shape: ...}}.")],
    out: Out,
) -> None:
    """Look at published features and write what identifies them: file, shape, bytes, SHA-256."""
    from avpipe.features.imported import inspect_published
    from avpipe.files import write_json

    _, config = _imported(imported)
    write_json(out, inspect_published(config))


@features.command("import")
@readable_errors
def import_shard(
    imported: Annotated[str, typer.Argument(help="json {name: {path: ..., format: ..., shape: ...}}.")],
    published: Annotated[Path, typer.Option(help="What `avpipe features inspect` wrote.")],
    shard: Annotated[int, typer.Option()],
    results: Results,
) -> None:
    """Import one shard of published features; `avpipe import` does all of them."""
    from avpipe.features import importing
    from avpipe.files import read_json

    name, config = _imported(imported)
    typer.echo(_counts(importing.import_shard(name, config, read_json(published), results, shard)))


@app.command("import")
@readable_errors
def import_(
    path: Annotated[Path, typer.Argument(help="h5: the file; npy: the folder that holds a file a clip.")],
    name: Annotated[str, typer.Option(help="Name of the array: features/{name}.zarr.")],
    shape: Annotated[str, typer.Option(help="Of one clip, for example 10,7,7,512 or 10,8,2048.")],
    results: Results,
    format: Annotated[str, typer.Option(help="h5 (AVE's files) or npy (a file a clip).")] = "h5",
    dtype: Annotated[str, typer.Option(help="float16, float32 or float64.")] = "float32",
    key: Annotated[str, typer.Option(help="h5: name of the array in the file.")] = "avadataset",
    rows: Annotated[
        Path | None,
        typer.Option(help="h5: names the clip of each row: AVE's Annotations.txt, or a name a line."),
    ] = None,
    noisy: Annotated[Path | None, typer.Option(help="h5: AVE's noisy set of the same feature.")] = None,
    pattern: Annotated[
        str, typer.Option(help="npy: file below PATH, with {clip} or {source}.")
    ] = "{clip}.npy",
    origin: Annotated[str, typer.Option(help="Where it is from, in words; kept with the array.")] = "",
) -> None:
    """Read published features into the study's zarr; the study's manifest says which row is which clip."""
    from avpipe.features.importing import import_features

    config = {
        "path": str(path), "format": format, "shape": [part.strip() for part in shape.split(",")], "dtype": dtype,
        "key": key, "rows": str(rows) if rows else None, "noisy": str(noisy) if noisy else None,
        "pattern": pattern, "origin": origin,
    }  # fmt: skip
    typer.echo(_counts(import_features(*_imported(json.dumps({name: config})), results)))


@app.command()
@readable_errors
def export(
    arrays: Annotated[
        list[str], typer.Argument(help="Features, each NAME or NAME=AS, for example vggish=audio_feature.")
    ],
    results: Results,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format: Annotated[str, typer.Option(help="ave (AVE's h5 files), npy (a file a clip) or webdataset.")],
    dtype: Annotated[str | None, typer.Option(help="default: as stored; ave: float64, as released")] = None,
    shape: Annotated[
        str | None, typer.Option(help="Of one clip: 80,2048 makes LLP's files of 10,8,2048.")
    ] = None,
) -> None:
    """Write features in a form that others' code reads."""
    from avpipe import lazy
    from avpipe.features.export import FORMATS, Form

    lazy.target(dict.fromkeys(FORMATS, ""), format, "format")
    form = Form(
        dtype or ("float64" if format == "ave" else None),
        tuple(int(part) for part in shape.split(",")) if shape else None,
    )
    named = {name: given or name for name, _, given in (text.partition("=") for text in arrays)}
    typer.echo(_counts(FORMATS[format](named, results, out, form)))


@features.command("coverage")
@readable_errors
def coverage(
    array: Annotated[Path, typer.Argument(help="The array, features/{extractor}.zarr.")],
    manifest: Annotated[Path, typer.Option(help="manifest.parquet.")],
    out: Out,
) -> None:
    """Count the clips of each split that have the feature; the array must be complete."""
    from avpipe.features.coverage import write_coverage

    counts = write_coverage(array, manifest, out)
    typer.echo(", ".join(f"{split} {valid} of {clips}" for split, (clips, valid) in counts.items()))


@weights.command("list")
@readable_errors
def list_weights() -> None:
    """Name, size, hash, licence and address of each file of published weights."""
    from avpipe.features.weights import PUBLISHED_WEIGHTS

    for name, file in PUBLISHED_WEIGHTS.items():
        size = f"{file.size:,} bytes" if file.size else "size unknown"
        typer.echo(
            f"{name}: {file.url}\n  {file.origin}; {size}; SHA-256 {file.sha256}; licence {file.licence}"
        )


@weights.command("fetch")
@readable_errors
def fetch_weights(
    names: WeightNames = None,
    study: Annotated[
        str | None, typer.Option(help="Only what this study needs: a yaml or json file.")
    ] = None,
    folder: WeightsFolder = None,
) -> None:
    """Download weights ahead of time, for example where the machines that compute have no network."""
    from avpipe.features.weights import default_folder, fetch

    for name in _weight_names(names, study):
        typer.echo(str(fetch(name, folder or default_folder(os.environ))))


@weights.command("verify")
@readable_errors
def verify_weights(
    names: WeightNames = None,
    study: Annotated[
        str | None, typer.Option(help="Only what this study needs: a yaml or json file.")
    ] = None,
    folder: WeightsFolder = None,
) -> None:
    """Compare the files in the folder with their SHA-256; exit with 1 if one is wrong, or one that was named is missing."""
    from avpipe.features.weights import default_folder, verify

    place = folder or default_folder(os.environ)
    found = verify(_weight_names(names, study), place)
    for name, state in found.items():
        typer.echo(f"{name}: {state}")
    bad = [name for name, state in found.items() if state != "ok" and (names or state != "missing")]
    if bad:
        raise ValueError(f"{len(bad)} of {len(found)} files in {place} are not right: {', '.join(bad)}")


def _weight_names(names: list[str] | None, study: str | None) -> list[str]:
    """The names given, else what the study needs, else all."""
    from avpipe.config.study import resolve, validate_study
    from avpipe.features.weights import PUBLISHED_WEIGHTS, needed_weights

    if names or study is None:
        return names or list(PUBLISHED_WEIGHTS)
    return needed_weights(resolve(validate_study(_mapping(study, "--study"), study)).extractors.values())


@app.command()
@readable_errors
def train(
    experiment: Annotated[str, typer.Option(help="The experiment: json, or a json or yaml file.")],
    results: Results,
    seed: Annotated[
        list[int], typer.Option(help="May be repeated; all seeds share one load of the features.")
    ],
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
    log: Annotated[Path | None, typer.Option(help="Log file to name in metrics.json.")] = None,
) -> None:
    """Train and evaluate one experiment; writes runs/{experiment}/seed{n}/metrics.json and predictions.parquet."""
    from avpipe.experiment import Experiment
    from avpipe.training.loop import train_experiment

    train_experiment(
        Experiment.model_validate(_mapping(experiment, "--experiment")), results, seed, device, log, threads
    )


@tables.command("write")
@readable_errors
def table_write(
    table: Annotated[str, typer.Argument(help="Name of a table.")],
    spec: Annotated[str, typer.Option(help="Its file in workflow/tables, or the file's content as json.")],
    study: StudyOption,
    results: Results,
) -> None:
    """Write one table as csv, md, tex and html."""
    from avpipe.config.study import validate_study
    from avpipe.tables.aggregate import write_table
    from avpipe.tables.spec import parse_table

    chosen = validate_study(_mapping(study, "--study"), "--study")
    write_table(table, parse_table(_mapping(spec, "--spec"), table, chosen), chosen, results)


@app.command()
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
    from avpipe.config.study import validate_study
    from avpipe.tables.aggregate import why as explain
    from avpipe.tables.spec import load_table

    chosen = validate_study(_mapping(study, "--study"), study)
    folder = results or Path("results") / chosen.dataset.name
    spec = load_table(workflow / "tables" / f"{table}.yaml", chosen)
    typer.echo(explain(table, row, metric, setting, spec, chosen, folder))


@report.command("figure")
@readable_errors
def figure(
    name: Annotated[str, typer.Argument(help="Name of a figure.")],
    spec: Annotated[str, typer.Option(help="Its file in workflow/figures, or the file's content as json.")],
    study: StudyOption,
    results: Results,
) -> None:
    """Draw one figure as svg and png."""
    from avpipe.config.study import validate_study
    from avpipe.report.figures import draw_figure
    from avpipe.tables.spec import parse_figure

    chosen = validate_study(_mapping(study, "--study"), "--study")
    draw_figure(name, parse_figure(_mapping(spec, "--spec"), name, chosen), chosen, results)
