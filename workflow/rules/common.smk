# The study, and the functions that give rules their inputs and parameters.
import atexit
import json
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from avpipe.plan.study import resolve, validate_study
from avpipe.datasets.manifest import inventory, link_folder
from avpipe.plan.plan import (
    Plan,
    code,
    embed_code,
    extract_code,
    fetch_code,
    figure_code,
    manifest_index,
    reader_code,
    train_code,
)

if set("{}") & set(str(workflow.basedir)):
    raise WorkflowError(
        f"{workflow.basedir}: Snakemake takes braces in a path for wildcards; rename the folder, or move the checkout"
    )

try:
    study = resolve(validate_study(config))
    plan = Plan(study, Path(workflow.basedir) / "workflow")
    if study.folder:
        link_folder(Path(study.folder), Path(plan.results))
except (ValueError, OSError) as error:
    raise WorkflowError(str(error)) from None

# Sources on this machine's disks need no turn among downloads, and no day to wait for it.
downloads_anything = any(not source.local_path for source in study.dataset.sources)

# Jobs run the code of this checkout, with the Python that runs Snakemake or that of their conda environment. Their output goes
# to their log; number 3 is Snakemake's stderr, where long jobs also say how far they are (avpipe/progress.py).
_uses_conda = any(str(method).endswith("conda") for method in workflow.deployment_settings.deployment_method)
_python = Path(sys.executable).parent
_path = "" if _uses_conda else "export PATH={_python:q}:$PATH; "
shell.prefix(
    "set -euo pipefail; exec 3>&2; export AVPIPE_PROGRESS_FD=3 PYTHONPATH={workflow.basedir:q}; " + _path
)


wildcard_constraints:
    dataset=study.dataset.name,
    shard=r"\d+",
    preset=study.media.preset,
    extractor=r"[A-Za-z0-9_-]+",
    experiment=r"[A-Za-z0-9_-]+",
    seed=r"\d+",
    table=r"[A-Za-z0-9_-]+",
    figure=r"[A-Za-z0-9_-]+",


def all_results(wildcards):
    """Every table, figure and array of the study, and clips.parquet."""
    tables = [
        f"{plan.results}/tables/{name}.{suffix}"
        for name in plan.tables
        for suffix in ("csv", "md", "tex", "html")
    ]
    figures = [
        f"{plan.results}/figures/{name}.{suffix}" for name in plan.figures for suffix in ("svg", "png")
    ]
    return [
        f"{plan.results}/clips.parquet",
        *tables,
        *figures,
        *feature_chunks(plan.features),
    ]


def manifest_file(name):
    """An output of the manifest's job; asking for it makes Snakemake run that job first."""
    return getattr(checkpoints.manifest.get(dataset=study.dataset.name).output, name)


def manifest_index_file(wildcards):
    """The new manifest.json: the old one has the digests from before the change."""
    return manifest_file("index")


def shards():
    """The numbers of the shards, once the manifest exists."""
    return [int(number) for number in manifest_index(manifest_file("index"))["shards"]]


def feature_chunks(extractors):
    """The file of every shard of these features."""
    return [plan.chunk(name, shard) for name in extractors for shard in shards()]


def segment_files(suffix):
    """The tar or the outcome table of every shard."""
    return [f"{plan.results}/segments/{study.media.preset}/{shard}.{suffix}" for shard in shards()]


# These functions read manifest.json themselves, because Snakemake does not compare parameters that depend on `input`.
# They return None before the manifest exists; Snakemake calls them again before the job runs.


def index_now():
    """The current manifest.json, or None."""
    path = Path(plan.results) / "manifest.json"
    return manifest_index(path) if path.exists() else None


def shard_digest(wildcards):
    """A digest of this shard's rows and local files, so that a new clip or a changed file reruns its shard only."""
    index = index_now()
    return index and index["shards"].get(wildcards.shard)


def labels_digest(wildcards):
    """A digest of events and categories, so that a rewritten manifest alone reruns no training."""
    index = index_now()
    return index and index["labels"]


def source_inventory(wildcards):
    """A digest of the local sources' files; the manifest is made again when it changes."""
    return inventory([Path(source.local_path) for source in study.dataset.sources if source.local_path])


def annotation_files(wildcards):
    """The dataset's own annotation files; none for a plain folder, whose inventory is compared instead."""
    folder = Path(study.dataset.annotations or f"{plan.results}/annotations")
    if study.dataset.kind == "demo":
        return [f"{plan.results}/annotations"]
    if study.dataset.kind == "folder":
        return []
    files = sorted(str(file) for file in folder.glob("*") if file.is_file() and not file.name.startswith("."))
    if not files:
        raise WorkflowError(
            f"dataset.annotations: no files in {folder}; put the annotation files of {study.dataset.kind} there"
        )
    return files


def source_identities(wildcards):
    """The options that decide which clips the sources give; changes of speed, time limits and secrets rerun nothing."""
    return [source.identity() for source in study.dataset.sources]


# The argument `input` keeps Snakemake from comparing the result; `source_identities` is compared instead.
def source_options(wildcards, input):
    """The dataset's sources as options. (A function, because Snakemake would expand braces in a string.)"""
    return [f"--source={source.to_json()}" for source in study.dataset.sources]


def device(wildcards, input):
    """Where networks are computed; another device makes nothing stale, so the value is not compared (see `source_options`)."""
    return study.device


def local_source_options(wildcards):
    """The local sources, whose files the manifest's job looks for."""
    return [f"--source={source.identity()}" for source in study.dataset.sources if source.local_path]


def reader_options(wildcards):
    """Options of the dataset's reader, as json; none for the demo, whose options are for rendering."""
    return json.dumps({} if study.dataset.kind == "demo" else study.dataset.options, sort_keys=True)


def demo_options(wildcards):
    """Options of rendering the demo, as json."""
    return json.dumps(study.dataset.options, sort_keys=True)


def extractor_options(bundle):
    """A function that returns the settings of a bundle's extractors as options."""

    def options(wildcards):
        settings = {name: study.extractors[name].model_dump(mode="json") for name in bundle}
        return [f"--extractor={json.dumps({name: setting})}" for name, setting in settings.items()]

    return options


def experiment_of(wildcards):
    """The experiment in a run's path."""
    if wildcards.experiment not in plan.experiments:
        raise WorkflowError(f"no table or figure of this study asks for experiment {wildcards.experiment}")
    return plan.experiments[wildcards.experiment]


def each_attempt(amount):
    """A function that returns `amount` times the number of the attempt, so that a job tried again gets more."""

    def attempted(wildcards, attempt):
        return attempt * amount

    return attempted


def outcome_tables(wildcards):
    """Every shard's outcome table; none if all features are imported, because no clip is fetched then."""
    return segment_files("parquet") if plan.needs_media else []


def imported_options(name):
    """A function that returns the settings of an imported feature, as json."""

    def options(wildcards):
        return json.dumps({name: plan.imported(name).model_dump(mode="json")})

    return options


def imported_inventory(name):
    """A function whose result changes with the size or modification time of a published file."""

    def published(wildcards):
        config = plan.imported(name)
        return inventory([Path(path) for path in (config.path, config.rows, config.noisy) if path])

    return published


def coverage_chunks(wildcards):
    """Every shard of one feature."""
    return feature_chunks([wildcards.extractor])


def run_features(wildcards):
    """The coverage files of the experiment's features; each is made once the feature is complete."""
    names = sorted(set(experiment_of(wildcards).features.values()))
    return [f"{plan.results}/features/{name}.csv" for name in names]


def run_start(wildcards):
    """The pretraining checkpoints that the runs start from; none for most experiments."""
    return plan.checkpoints_before(experiment_of(wildcards))


def run_code(wildcards):
    """The fingerprint of the training loop, the task and this experiment's model only."""
    return train_code(experiment_of(wildcards))


def run_embed_code(wildcards):
    """The fingerprint of the code that embeds clips with this experiment's model only."""
    return embed_code(experiment_of(wildcards))


def run_experiment(wildcards):
    """The experiment as json."""
    return experiment_of(wildcards).to_json()


def table_runs(wildcards):
    """The metrics of every run of the table."""
    return plan.runs(list(plan.tables[wildcards.table].experiments(study).values()), "metrics.json")


def table_text(wildcards):
    """The table's file without comments."""
    return plan.tables[wildcards.table].model_dump_json()


def table_study(wildcards):
    """The part of the study that the table depends on."""
    return plan.narrowed(plan.tables[wildcards.table])


def figure_inputs(wildcards):
    """The figure's files of the runs, and the clips if it shows one."""
    spec = plan.figures[wildcards.figure]
    clips = [f"{plan.results}/clips.parquet", *segment_files("tar")] if spec.shows_clip else []
    return [*plan.figure_files(spec), *clips]


def figure_text(wildcards):
    """The figure's file without comments."""
    return plan.figures[wildcards.figure].model_dump_json()


def figure_kind_code(wildcards):
    """The fingerprint of this figure's kind; no other kind's."""
    return figure_code(plan.figures[wildcards.figure])


def figure_caption(wildcards):
    """The text beside the figure in the report."""
    return plan.figures[wildcards.figure].caption


def figure_study(wildcards):
    """The part of the study that the figure depends on."""
    return plan.narrowed(plan.figures[wildcards.figure])
