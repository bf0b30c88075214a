# The study's plan, and what only Snakemake can answer: the files of shards, whose number is known after the manifest's job.
# Rules take methods of `plan` as functions of their wildcards.
import atexit
import sys
from functools import partial
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from avpipe.datasets.manifest import link_folder
from avpipe.plan.plan import Plan, code, demo_code, fetch_code, manifest_index, reader_code
from avpipe.plan.resources import free_memory
from avpipe.plan.study import resolve, validate_study

if set("{}") & set(str(workflow.basedir)):
    raise WorkflowError(
        f"{workflow.basedir}: Snakemake takes braces in a path for wildcards; rename the folder, or move the checkout"
    )

try:
    study = resolve(validate_study(config))
    plan = Plan(study, Path(workflow.basedir) / "workflow")
    annotation_files = plan.annotation_files
    if study.folder:
        link_folder(Path(study.folder), Path(plan.results))
except (ValueError, OSError) as error:
    raise WorkflowError(str(error)) from None

# Jobs run the code of this checkout, with the Python that runs Snakemake or that of their environment or image. Their output goes
# to their log; number 3 is Snakemake's stderr, where long jobs also say how far they are (avpipe/progress.py).
_methods = {str(method) for method in workflow.deployment_settings.deployment_method}
_deployed = not _methods.isdisjoint({"conda", "apptainer"})
_python = Path(sys.executable).parent
_path = "" if _deployed else "export PATH={_python:q}:$PATH; "
_safe = "set -euo pipefail; exec 3>&2; export AVPIPE_PROGRESS_FD=3 PYTHONPATH={workflow.basedir:q}; "
shell.prefix("".join((_safe, _path)))

# On one machine, jobs together take no more memory than is free. The nodes of a cluster see to theirs.
if workflow.is_main_process and workflow.nodes is None and "mem_mb" not in workflow.global_resources:
    workflow.register_resource("mem_mb", free_memory() // 10**6)


# Seconds of work each, less than a cluster's queue takes: Snakemake runs them where it runs itself.
localrules:
    manifest,
    experiments,
    clips,
    table,
    figure,


wildcard_constraints:
    dataset=study.dataset.name,
    shard=r"\d+",
    preset="|".join(preset.name for preset in plan.presets),
    experiment=r"[A-Za-z0-9_-]+",
    seed=r"\d+",
    table=r"[A-Za-z0-9_-]+",
    figure=r"[A-Za-z0-9_-]+",


def manifest_index_file(wildcards):
    """manifest.json of the manifest's job; asking for it makes Snakemake run that job first."""
    return checkpoints.manifest.get(dataset=study.dataset.name).output.index


def shards():
    """The numbers of the shards, once the manifest exists."""
    return [int(number) for number in manifest_index(manifest_index_file(None))["shards"]]


def feature_chunks(extractors):
    """The file of every shard of these features."""
    return [plan.chunk(name, shard) for name in extractors for shard in shards()]


def segment_files(suffix, preset=study.media.preset):
    """The tar or the outcome table of every shard."""
    return [f"{plan.results}/segments/{preset.name}/{shard}.{suffix}" for shard in shards()]


def all_results(wildcards):
    """Every table, figure and array of the study, and clips.parquet."""
    return [*plan.outcomes, *feature_chunks(plan.features)]


def outcome_tables(wildcards):
    """Every shard's outcome table; none if all features are imported, because no clip is fetched then."""
    return segment_files("parquet") if plan.needs_media else []


def coverage_chunks(bundle, wildcards):
    """Every shard of a bundle's features."""
    return feature_chunks(bundle)


def run_inputs(wildcards):
    """What a training reads: the coverage files of its features, or the tars of its clips."""
    preset = plan.experiment(wildcards).preset
    return segment_files("tar", preset) if preset else plan.run_features(wildcards)


def figure_inputs(wildcards):
    """The figure's files of the runs, and the clips if it shows one."""
    shows_clip = plan.figures[wildcards.figure].shows_clip
    clips = [f"{plan.results}/clips.parquet", *segment_files("tar")] if shows_clip else []
    return [*plan.figure_files(wildcards.figure), *clips]


def each_attempt(amount):
    """A function that returns `amount` times the number of the attempt, so that a job tried again gets more."""

    def attempted(wildcards, attempt):
        return attempt * amount

    return attempted
