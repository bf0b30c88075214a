"""`avpipe STAGE ...`: parses arguments and calls one function. All that the workflow's rules ever call."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avpipe import __version__, feature_commands
from avpipe.console import Device, Out, Results, StudyOption, counted, read_mapping, readable_errors

if TYPE_CHECKING:
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
app.add_typer(feature_commands.features, name="features")
app.add_typer(feature_commands.weights, name="weights")
app.command("import")(feature_commands.import_)
app.command("export")(feature_commands.export)
tables = group("tables", "Runs to the tables of papers.")
report = group("report", "Runs and clips to figures.")


Sources = Annotated[
    list[str] | None, typer.Option("--source", help="json of a source; tried in the order given.")
]
Budgets = Annotated[
    Path | None,
    typer.Option(help="Folder of request budgets that jobs share; default: in the user's cache folder."),
]


def _sources(texts: list[str] | None) -> list["Source"]:
    """Sources given as json."""
    from avpipe.config.source import Source

    return [Source.model_validate(read_mapping(text, "--source")) for text in texts or []]


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

    chosen = read_mapping(options, "--options")
    lazy.check_options("avpipe.datasets.demo:render_demo", chosen, "the demo dataset")
    render_demo(out, **chosen)


@datasets.command("manifest")
@readable_errors
def manifest(
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    kind: Annotated[
        str, typer.Option(help="Format of its annotation files: ave, llp, audioset, ucf101, folder, demo.")
    ],
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
    read = read_annotations(kind, annotations, **read_mapping(options, "--options"))
    index = write_manifest(read, name, out, shard_size, local)
    typer.echo(
        f"{index['clips']} clips in {len(index['shards'])} shards: {counted(index['splits'])}; issues: {counted(index['issues'])}"
    )


@datasets.command("fetch-annotations")
@readable_errors
def fetch_annotations(
    kind: Annotated[str, typer.Option(help="ave, llp, audioset or ucf101.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the files; what is there already is checked and kept.")
    ],
    names: Annotated[list[str] | None, typer.Argument(help="Only these files; default: all.")] = None,
) -> None:
    """Download a dataset's own annotation files and check their SHA-256."""
    from avpipe.datasets import annotation_files

    for path in annotation_files.fetch_annotations(kind, out, names or ()):
        typer.echo(f"{path}: ok")


@datasets.command("freeze")
@readable_errors
def freeze(results: Results, out: Out) -> None:
    """Write the names of the usable clips (R/clips.parquet) to a text file, which a study's dataset.usable may name."""
    from avpipe.media.clips import freeze_clips

    usable, named = freeze_clips(results / "clips.parquet", out)
    typer.echo(f"{usable} of {named} clips")


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
    counts = fetch_shard(manifest, shard, _sources(source), out, places, tell=typer.echo)
    typer.echo(counted(counts))
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
    from avpipe.clips import Status
    from avpipe.config.study import resolve, validate_study
    from avpipe.download.budget import budget_folder
    from avpipe.download.status import left_for_later, retry
    from avpipe.lazy import UnknownNameError, suggest

    sources = _sources(source)
    if not sources or results is None:
        chosen = resolve(validate_study(read_mapping(study, "--study"), study)).dataset
        if results is not None and results.resolve().name != chosen.name:
            raise ValueError(
                f"{study} is the study of {chosen.name}, not of {results}: name its file with --study"
            )
        sources = sources or list(chosen.sources)
        results = results or Path("results") / chosen.name
    for name in reason or []:
        if name not in set(Status):
            raise UnknownNameError(
                f"--reason: no status {name!r}; {suggest(name, [status.value for status in Status])}"
            )
    reasons = [Status(name) for name in reason or []]
    counts = retry(results, sources, budgets or budget_folder(os.environ), reasons, shard or [])
    typer.echo(f"asked again: {counted(counts)}")
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

    typer.echo(counted(normalise_shard(downloads, manifest, shard, preset, tar, table, timeout, workers)))


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
    minimum: Annotated[
        list[str] | None,
        typer.Option(help="SPLIT=SHARE: stop if fewer of the split's clips are usable; may be repeated."),
    ] = None,
    usable: Annotated[
        Path | None, typer.Option(help="List of `avpipe datasets freeze`: other clips are left out.")
    ] = None,
) -> None:
    """Gather what became of every clip that the annotations name into clips.parquet."""
    from avpipe.media.clips import gather_clips

    shares = {split: float(share) for split, _, share in (text.partition("=") for text in minimum or [])}
    gather_clips(manifest, tables, out, shares, usable)


@app.command()
@readable_errors
def doctor(
    results: Annotated[Path, typer.Option(help="Where studies write.")] = Path("results"),
    weights: Annotated[
        Path | None, typer.Option(help="Folder of downloaded weights; default: the user's cache folder.")
    ] = None,
    budgets: Budgets = None,
) -> None:
    """Look whether everything is there that a study needs; exit with 1 if something is missing."""
    from rich.console import Console

    from avpipe.doctor import Verdict, check_table, examine
    from avpipe.download.budget import budget_folder
    from avpipe.features.weights import default_folder

    folders = weights or default_folder(), budgets or budget_folder(os.environ)
    checks = examine(results, *folders)
    Console(width=None if sys.stdout.isatty() else 160).print(check_table(checks))
    if any(check.verdict is Verdict.FAIL for check in checks):
        raise typer.Exit(1)


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
        Experiment.model_validate(read_mapping(experiment, "--experiment")),
        results,
        seed,
        device,
        log,
        threads,
    )


@app.command()
@readable_errors
def embed(
    experiment: Annotated[str, typer.Option(help="The experiment: json, or a json or yaml file.")],
    results: Results,
    seed: Annotated[int, typer.Option(help="Of the run, which must be there.")],
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Pass the test split through a trained model; writes embeddings.npz beside its checkpoint.pt."""
    from avpipe.experiment import Experiment
    from avpipe.training.embed import embed_run

    chosen = Experiment.model_validate(read_mapping(experiment, "--experiment"))
    embed_run(chosen, results, seed, device, threads)


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

    chosen = validate_study(read_mapping(study, "--study"), "--study")
    write_table(table, parse_table(read_mapping(spec, "--spec"), table, chosen), chosen, results)


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

    chosen = validate_study(read_mapping(study, "--study"), study)
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
    from avpipe.report.spec import parse_figure

    chosen = validate_study(read_mapping(study, "--study"), "--study")
    draw_figure(name, parse_figure(read_mapping(spec, "--spec"), name, chosen), chosen, results)
