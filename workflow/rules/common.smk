# The study, and the functions by which rules ask for inputs and parameters.
import json
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from avpipe.config.study import resolve, validate_study
from avpipe.datasets.manifest import inventory
from avpipe.workflow import (
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

try:
    study = resolve(validate_study(config))
    plan = Plan(study, Path(workflow.basedir) / "workflow")
except (ValueError, OSError) as error:
    raise WorkflowError(str(error)) from None

# Jobs run the code of this checkout: with the Python that runs Snakemake, or with that of their conda environment.
_uses_conda = any(str(method).endswith("conda") for method in workflow.deployment_settings.deployment_method)
_path = "" if _uses_conda else f'export PATH="{Path(sys.executable).parent}:$PATH"; '
shell.prefix(f'set -euo pipefail; {_path}export PYTHONPATH="{workflow.basedir}"; ')


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
    """Every table, figure and array that the study asks for, and what became of every clip."""
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
    """A file that the manifest's job wrote; asking for it makes Snakemake run that job first."""
    return getattr(checkpoints.manifest.get(dataset=study.dataset.name).output, name)


def manifest_index_file(wildcards):
    """manifest.json of the manifest as it will be: a digest read from an old one would hide what changed."""
    return manifest_file("index")


def shards():
    """The numbers of the shards, once the manifest is there."""
    return [int(number) for number in manifest_index(manifest_file("index"))["shards"]]


def feature_chunks(extractors):
    """The file of every shard of the extractors' arrays."""
    return [plan.chunk(name, shard) for name in extractors for shard in shards()]


def segment_files(suffix):
    """The tar, or the table of outcomes, of every shard."""
    return [f"{plan.results}/segments/{study.media.preset}/{shard}.{suffix}" for shard in shards()]


# Snakemake does not compare parameters that a function makes from `input`, so these read the files by themselves.
# Asked before the manifest is made they give None; Snakemake asks again before the job runs.


def index_now():
    """manifest.json as it is now, or None."""
    path = Path(plan.results) / "manifest.json"
    return manifest_index(path) if path.exists() else None


def shard_digest(wildcards):
    """Changes when the manifest's rows of this shard, or its local source files, do.

    So adding clips or changing one file reruns that shard only, though the manifest is a new file.
    """
    index = index_now()
    return index and index["shards"].get(wildcards.shard)


def labels_digest(wildcards):
    """Changes when events or categories do, though the manifest may be a new file."""
    index = index_now()
    return index and index["labels"]


def source_inventory(wildcards):
    """Changes when a file in a local source folder does, or a local archive: then the manifest is made again."""
    return inventory([Path(source.path) for source in study.dataset.sources if source.path])


def annotation_files(wildcards):
    """The dataset's own annotation files; of a plain folder there are none, its inventory counts."""
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
    """What decides which clips the sources give, without speed, patience and secrets: those make nothing stale."""
    return [source.identity() for source in study.dataset.sources]


# `input` is asked for only so that Snakemake does not compare what the function gives; `source_identities` is compared.
def source_options(wildcards, input):
    """The dataset's sources as the jobs take them. (A function, because Snakemake expands braces elsewhere.)"""
    return [f"--source={source.model_dump_json(exclude_defaults=True)}" for source in study.dataset.sources]


def local_source_options(wildcards):
    """The sources whose files the manifest looks at."""
    return [f"--source={source.identity()}" for source in study.dataset.sources if source.path]


def reader_options(wildcards):
    """Options of the dataset's reader, as json; the demo's are for rendering, not for reading."""
    return json.dumps({} if study.dataset.kind == "demo" else study.dataset.options, sort_keys=True)


def demo_options(wildcards):
    """Options of rendering the demo, as json."""
    return json.dumps(study.dataset.options, sort_keys=True)


def extractor_options(bundle):
    """A function that gives the settings of a bundle's extractors as the jobs take them."""

    def options(wildcards):
        settings = {name: study.extractors[name].model_dump(mode="json") for name in bundle}
        return [f"--extractor={json.dumps({name: setting})}" for name, setting in settings.items()]

    return options


def experiment_of(wildcards):
    """The experiment of a run's path."""
    if wildcards.experiment not in plan.experiments:
        raise WorkflowError(f"no table or figure of this study asks for experiment {wildcards.experiment}")
    return plan.experiments[wildcards.experiment]


def share_of_cores(wildcards):
    """Threads of a job, so that the shards of a small study still use every core."""
    try:
        jobs = len(manifest_index(f"{plan.results}/manifest.json")["shards"])
    except FileNotFoundError:
        jobs = 1
    return max(1, (workflow.cores or 1) // max(1, min(jobs, workflow.cores or 1)))


def outcome_tables(wildcards):
    """Every shard's table of outcomes; none where all features are imported, because no clip is fetched then."""
    return segment_files("parquet") if plan.needs_media else []


def imported_options(name):
    """A function that gives how a feature is imported, as one line of json."""

    def options(wildcards):
        return json.dumps({name: plan.imported(name).model_dump(mode="json")})

    return options


def imported_inventory(name):
    """A function whose value changes when a published file does: its size or its time of change."""

    def published(wildcards):
        config = plan.imported(name)
        return inventory([Path(path) for path in (config.path, config.rows, config.noisy) if path])

    return published


def coverage_chunks(wildcards):
    """Every shard of one feature."""
    return feature_chunks([wildcards.extractor])


def run_features(wildcards):
    """The features that the experiment reads, each by the count of its clips, which is made when it is complete."""
    names = sorted(set(experiment_of(wildcards).features.values()))
    return [f"{plan.results}/features/{name}.csv" for name in names]


def run_start(wildcards):
    """The weights that the runs start from, which are outputs of another training; none for most experiments."""
    return plan.checkpoints_before(experiment_of(wildcards))


def run_code(wildcards):
    """The fingerprint of the loop, the task and this experiment's model; no other model's."""
    return train_code(experiment_of(wildcards))


def run_embed_code(wildcards):
    """The fingerprint of passing clips through this experiment's model; no other model's."""
    return embed_code(experiment_of(wildcards))


def run_experiment(wildcards):
    """The experiment as one line of json."""
    return experiment_of(wildcards).to_json()


def table_runs(wildcards):
    """The numbers of every run behind the table."""
    return plan.runs(list(plan.tables[wildcards.table].experiments(study).values()), "metrics.json")


def table_text(wildcards):
    """What the table's file says, without its comments."""
    return plan.tables[wildcards.table].model_dump_json()


def table_study(wildcards):
    """The part of the study that decides the table."""
    return plan.narrowed(plan.tables[wildcards.table])


def figure_inputs(wildcards):
    """What the figure reads of the runs; and the clips themselves where it shows one."""
    spec = plan.figures[wildcards.figure]
    clips = [f"{plan.results}/clips.parquet", *segment_files("tar")] if spec.shows_clip else []
    return [*plan.figure_files(spec), *clips]


def figure_text(wildcards):
    """What the figure's file says, without its comments."""
    return plan.figures[wildcards.figure].model_dump_json()


def figure_kind_code(wildcards):
    """The fingerprint of this figure's kind; no other kind's."""
    return figure_code(plan.figures[wildcards.figure])


def figure_caption(wildcards):
    """The text beside the figure in the report."""
    return plan.figures[wildcards.figure].caption


def figure_study(wildcards):
    """The part of the study that decides the figure."""
    return plan.narrowed(plan.figures[wildcards.figure])
