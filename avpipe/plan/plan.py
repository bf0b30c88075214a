"""What the Snakefile needs to know: the modules behind each rule, a study's experiments, and where its files are.

This code is here and not in the rules so that it can be tested and type-checked. It imports neither torch nor pandas.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from avpipe.datasets import DATASETS, clip_seconds
from avpipe.download import FETCHERS
from avpipe.features.spec import BACKBONES, NETWORKS, check_extractors, chunk_path
from avpipe.files import read_json
from avpipe.media.presets import PRESETS
from avpipe.models import MODELS
from avpipe.plan import fingerprint, registry
from avpipe.plan.experiment import Experiment, check_model
from avpipe.plan.extractor import ExtractorConfig, ImportedConfig
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report import KINDS
from avpipe.report.spec import FigureSpec, load_figure
from avpipe.tables.spec import TableSpec, load_table
from avpipe.training import TASKS


@dataclass(frozen=True)
class Job:
    """The modules whose code decides the results of a rule's jobs, and the jobs' conda environment."""

    modules: tuple[str, ...]
    environment: str


JOBS = {
    "demo": Job(("avpipe.datasets.demo",), "media"),
    "manifest": Job(("avpipe.datasets.manifest",), "media"),
    "fetch": Job(("avpipe.download.fetch",), "download"),
    "normalise": Job(("avpipe.media.normalise",), "media"),
    "clips": Job(("avpipe.media.clips",), "media"),
    "extract": Job(("avpipe.features.extract",), "torch"),
    "inspect": Job(("avpipe.features.published",), "torch"),
    "import": Job(("avpipe.features.published", "avpipe.datasets.ave"), "torch"),
    "coverage": Job(("avpipe.features.coverage",), "torch"),
    "train": Job(("avpipe.training.run",), "torch"),
    "embed": Job(("avpipe.training.embed",), "torch"),
    "table": Job(("avpipe.tables.aggregate",), "report"),
    "figure": Job(("avpipe.report.figures",), "report"),
}
"""Rule -> its job. The functions below add the modules that depend on the study, for example the model of a run."""


def code(rule: str, *more: str) -> str:
    """The fingerprint of a rule's code, with the modules `more` that its job loads by name."""
    return fingerprint.fingerprint(*JOBS[rule].modules, *more)


def reader_code(kind: str) -> str:
    """The fingerprint of the manifest's code for a dataset of this kind."""
    return code("manifest", registry.target(DATASETS, kind, "dataset").split(":")[0])


def fetch_code(kinds: list[str]) -> str:
    """The fingerprint of fetching from sources of these kinds."""
    return code("fetch", *{registry.target(FETCHERS, kind, "source").split(":")[0] for kind in kinds})


def train_code(experiment: Experiment) -> str:
    """The fingerprint of everything that a run of `experiment` executes: loop, task and that one model."""
    return code("train", *_named_code(experiment))


def embed_code(experiment: Experiment) -> str:
    """The fingerprint of everything that embeds clips with a run's model: task, data and that one model."""
    return code("embed", *_named_code(experiment))


def figure_code(spec: FigureSpec) -> str:
    """The fingerprint of drawing a figure of this kind."""
    return code("figure", registry.target(KINDS, spec.kind, "kind of figure").split(":")[0])


def _named_code(experiment: Experiment) -> tuple[str, str]:
    """The modules of the experiment's task and model."""
    task, model = (
        registry.target(TASKS, experiment.task, "task"),
        registry.target(MODELS, experiment.model, "model"),
    )
    return task.split(":")[0], model.split(":")[0]


def extract_code(backbones: list[str]) -> str:
    """The fingerprint of everything that an extraction with these backbones executes."""
    networks = {NETWORKS[registry.target(BACKBONES, n, "backbone").kind].split(":")[0] for n in backbones}
    entries = sorted(f"{name}={BACKBONES[name]}" for name in backbones)
    return " ".join([code("extract", *networks), *entries])


def array_code(config: ExtractorConfig | ImportedConfig) -> str:
    """The fingerprint that extraction and import write into an array's attributes."""
    if isinstance(config, ImportedConfig):
        return code("import")
    return code("extract", NETWORKS[BACKBONES[config.backbone].kind].split(":")[0])


def check_study(study: Study) -> None:
    """Raise `ConfigError` that lists each name, option and value of the study that the code does not have."""
    check_extractors(study.extractors)
    mistakes: list[str] = []

    def check(key: str, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            function(*arguments)
        except registry.UnknownNameError as error:
            mistakes.append(f"  {key}: {error}")

    kind, options = study.dataset.kind, study.dataset.options
    check("dataset.kind", registry.target, DATASETS, kind, "dataset")
    reader = "avpipe.datasets.demo:render_demo" if kind == "demo" else DATASETS.get(kind)
    if reader:
        check("dataset.options", registry.check_options, reader, options, f"the dataset {kind}")
    check("media.preset", registry.target, PRESETS, study.media.preset, "preset")
    for name in study.backbones:
        check("backbones", registry.target, study.arrays, name, "feature")
    for name in study.training_of:
        check("training_of", registry.target, {**TASKS, **MODELS}, name, "task or model")
    for name, given in study.models.items():
        check(f"models.{name}", check_model, name.partition("@")[0], given)
    if mistakes:
        raise ConfigError("\n".join(["the configuration is wrong:", *mistakes]))


class Plan:
    """A study's tables, figures and experiments, and the files they need."""

    def __init__(self, study: Study, workflow: Path) -> None:
        self.study = study
        check_study(study)
        self._check_length()
        self.tables: dict[str, TableSpec] = {
            n: load_table(self._file(workflow, "tables", n), study) for n in study.tables
        }
        self.figures: dict[str, FigureSpec] = {
            n: load_figure(self._file(workflow, "figures", n), study) for n in study.figures
        }
        specs = [*self.tables.values(), *self.figures.values()]
        self.experiments: dict[str, Experiment] = {
            e.id: e for spec in specs for asked in spec.experiments(study).values() for e in asked.chain
        }

    def _check_length(self) -> None:
        """Raise `ConfigError` if the preset reads more seconds than the dataset's clips have."""
        dataset, name = self.study.dataset, self.study.media.preset
        length = clip_seconds(dataset.kind, dataset.options)
        if PRESETS[name].seconds > length:
            raise ConfigError(
                f"media.preset: {name} reads {PRESETS[name].seconds} s, but the clips are {length:g} s long "
                f"(dataset.options.window): a preset may read less than a clip, never more"
            )

    @staticmethod
    def _file(workflow: Path, folder: str, name: str) -> Path:
        path = workflow / folder / f"{name}.yaml"
        if not path.is_file():
            known = [file.stem for file in (workflow / folder).glob("*.yaml")]
            raise registry.UnknownNameError(
                f"{folder}: no {name!r} in {workflow / folder}; {registry.suggest(name, known)}"
            )
        return path

    @property
    def results(self) -> str:
        """The study's folder."""
        return f"results/{self.study.dataset.name}"

    @property
    def features(self) -> list[str]:
        """The features that a table needs or that the study asks for, in the study's order."""
        needed = {name for e in self.experiments.values() for name in e.features.values()} | set(
            self.study.features
        )
        return [name for name in self.study.arrays if name in needed]

    @property
    def extractors(self) -> list[str]:
        """The names in `features` that are extracted from clips."""
        return [name for name in self.features if name in self.study.extractors]

    @property
    def imports(self) -> list[str]:
        """The names in `features` that are imported."""
        return [name for name in self.features if name in self.study.imported]

    @property
    def needs_media(self) -> bool:
        """Whether the clips' files are needed: by an extractor, by a figure, or because the study asks for no feature at all."""
        shown = any(spec.shows_clip for spec in self.figures.values())
        return bool(self.extractors) or shown or not self.features

    def imported(self, name: str) -> ImportedConfig:
        """How a feature is imported, with the file that names the rows of an h5 file, where the dataset has one."""
        config, dataset = self.study.imported[name], self.study.dataset
        if config.format == "h5" and config.rows is None and dataset.kind == "ave" and dataset.annotations:
            return config.model_copy(update={"rows": f"{dataset.annotations}/Annotations.txt"})
        return config

    @property
    def bundles(self) -> list[tuple[str, ...]]:
        """The needed extractors, grouped by the job that computes them."""
        needed = self.extractors
        bundles = [tuple(name for name in bundle if name in needed) for bundle in self.study.bundles]
        bundled = {name for bundle in bundles for name in bundle}
        return [bundle for bundle in bundles if bundle] + [(name,) for name in needed if name not in bundled]

    def chunk(self, extractor: str, shard: int | str) -> str:
        """The file that holds one shard of a feature: the output of the extraction job. `shard` may be a wildcard."""
        return f"{self.results}/features/{extractor}.zarr/{chunk_path(self.study.arrays[extractor], shard)}"

    def runs(
        self, experiments: list[Experiment], file: str, seeds: tuple[int, ...] | None = None
    ) -> list[str]:
        """The paths of `file` in the runs of the experiments with these seeds; default: all seeds of the study."""
        ids = sorted({experiment.id for experiment in experiments})
        return [
            f"{self.results}/runs/{i}/seed{seed}/{file}" for i in ids for seed in seeds or self.study.seeds
        ]

    def checkpoints_before(self, experiment: Experiment) -> list[str]:
        """The checkpoints that the runs of an experiment start from; none if it has no pretraining.

        Checkpoints of another dataset are made by that dataset's own study.
        """
        files = self.runs([experiment.pretraining], "checkpoint.pt") if experiment.pretraining else []
        other = experiment.pretrained_on
        return [file.replace(self.results, f"results/{other}", 1) for file in files] if other else files

    def figure_files(self, spec: FigureSpec) -> list[str]:
        """The files that a figure reads: of its experiments' runs, and of the dataset."""
        experiments = list(spec.experiments(self.study).values())
        files = spec.run_files(self.study).items()
        of_runs = [path for file, seeds in files for path in self.runs(experiments, file, seeds)]
        return of_runs + [f"{self.results}/{file}" for file in spec.dataset_files]

    def empty_tables(self) -> list[str]:
        """The written tables in which every measured number is missing."""
        empty = []
        for name in self.tables:
            path = Path(self.results) / "tables" / f"{name}.csv"
            if path.is_file():
                with path.open(encoding="utf-8", newline="") as file:
                    if not any(line["mean"] for line in csv.DictReader(file)):
                        empty.append(name)
        return empty

    def narrowed(self, spec: TableSpec | FigureSpec) -> str:
        """The part of the study that decides a table or figure, as json.

        It is a parameter of the table's job. So adding another table to the study does not rerun this one.
        """
        study = self.study
        experiments = [e for asked in spec.experiments(study).values() for e in asked.chain]
        used = {name for experiment in experiments for name in experiment.features.values()}
        models = {experiment.model for experiment in experiments}
        keys = models | {f"{model}@{feature}" for model in models for feature in used}
        tasks = {experiment.task for experiment in experiments}
        recipes = {name: study.recipes[name] for name in sorted(spec.recipe_names()) if name in study.recipes}
        part = {
            "dataset": {
                "name": study.dataset.name,
                "kind": study.dataset.kind,
                "options": {} if study.dataset.kind == "demo" else study.dataset.options,
            },
            "media": study.media.model_dump(mode="json"),
            "extractors": {
                n: study.extractors[n].model_dump(mode="json") for n in study.extractors if n in used
            },
            **_imported_part(study, used),
            "seeds": list(study.seeds),
            "training": study.training.model_dump(mode="json"),
            "training_of": {
                name: changes for name, changes in study.training_of.items() if name in tasks | models
            },
            "recipes": recipes,
            "models": {key: options for key, options in study.models.items() if key in keys},
            "notice": study.notice,
        }
        return json.dumps(part, sort_keys=True)


def _imported_part(study: Study, used: set[str]) -> dict[str, Any]:
    """The imported features among `used`; nothing at all in a study that imports none."""
    found = {n: config.model_dump(mode="json") for n, config in study.imported.items() if n in used}
    return {"imported": found} if found else {}


@cache
def _index(path: str, modified: int) -> dict[str, Any]:
    index: dict[str, Any] = read_json(path)
    return index


def manifest_index(path: str | Path) -> dict[str, Any]:
    """The content of manifest.json, read once for each version of the file."""
    return _index(str(path), Path(path).stat().st_mtime_ns)
