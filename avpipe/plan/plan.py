"""What the Snakefile needs to know: the modules behind each rule, a study's experiments, and where its files are.

This code is here and not in the rules so that it can be tested and type-checked. It imports neither torch nor pandas.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from avpipe.datasets import DATASETS, RENDERERS, clip_seconds
from avpipe.datasets.manifest import inventory
from avpipe.download import FETCHERS
from avpipe.features.spec import backbone_of, check_extractors, chunk_path, feature_shape, network_modules
from avpipe.files import read_json, write_text
from avpipe.media.presets import Preset, named
from avpipe.models import MODELS
from avpipe.plan import fingerprint, registry
from avpipe.plan.experiment import Experiment, check_model
from avpipe.plan.extractor import ArrayConfig, ExtractorConfig, ImportedConfig, LearnedConfig, RunConfig
from avpipe.plan.rates import EXTRACTION_MB
from avpipe.plan.resources import KEPT_MB, Training
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
    "demo": Job((), "media"),
    "manifest": Job(("avpipe.datasets.manifest",), "media"),
    "fetch": Job(("avpipe.download.fetch",), "download"),
    "normalise": Job(("avpipe.media.normalise",), "media"),
    "clips": Job(("avpipe.media.clips",), "media"),
    "extract": Job(("avpipe.features.extract",), "torch"),
    "encode": Job(("avpipe.training.encode",), "torch"),
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


def demo_code(kind: str) -> str:
    """The fingerprint of rendering a dataset of this kind; "" for a kind that is not rendered."""
    return code("demo", RENDERERS[kind].split(":")[0]) if kind in RENDERERS else ""


def fetch_code(kinds: list[str]) -> str:
    """The fingerprint of fetching from sources of these kinds."""
    return code("fetch", *{registry.target(FETCHERS, kind, "source").split(":")[0] for kind in kinds})


def train_code(experiment: Experiment) -> str:
    """The fingerprint of everything that a run of `experiment` executes: loop, task and that one model."""
    return code("train", *_named_code(experiment.task, experiment.model))


def embed_code(experiment: Experiment) -> str:
    """The fingerprint of everything that embeds clips with a run's model: task, data and that one model."""
    return code("embed", *_named_code(experiment.task, experiment.model))


def _named_code(task: str, model: str) -> tuple[str, str]:
    """The modules of a task and of a model."""
    return (
        registry.target(TASKS, task, "task").split(":")[0],
        registry.target(MODELS, model, "model").split(":")[0],
    )


def extract_code(extractors: list[ExtractorConfig]) -> str:
    """The fingerprint of everything that an extraction by these extractors executes, and their own files of weights."""
    networks = {module for config in extractors for module in network_modules(config.backbone)}
    entries = sorted({f"{config.backbone}={backbone_of(config.backbone)}" for config in extractors})
    files = [Path(config.weights_file) for config in extractors if config.weights_file]
    return " ".join([code("extract", *networks), *entries, *([inventory(files)] if files else [])])


def array_code(config: ArrayConfig) -> str:
    """The fingerprint that extraction and import write into an array's attributes."""
    if isinstance(config, ImportedConfig):
        return code("import")
    if isinstance(config, LearnedConfig):
        return code("encode", *_named_code(config.task, config.model))
    return code("extract", *network_modules(config.backbone))


def check_study(study: Study) -> None:
    """Raise `ConfigError` that lists each name, option and value of the study that the code does not have."""
    check_extractors(study.with_backbone)
    mistakes: list[str] = []

    def check(key: str, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            function(*arguments)
        except registry.UnknownNameError as error:
            mistakes.append(f"  {key}: {error}")

    kind, options = study.dataset.kind, study.dataset.options
    check("dataset.kind", registry.target, DATASETS, kind, "dataset")
    if not mistakes:
        takes_options = RENDERERS.get(kind) or DATASETS.get(kind, kind)
        check("dataset.options", registry.check_options, takes_options, options, f"the dataset {kind}")
    for name in study.backbones:
        check("backbones", registry.target, dict.fromkeys(study.feature_names, ""), name, "feature")
    for name in study.training_of:
        check("training_of", registry.target, {**TASKS, **MODELS}, name, "task or model")
    for name, given in study.models.items():
        check(f"models.{name}", check_model, name.partition("@")[0], given)
    for name, asked in study.experiments.items():
        check(f"experiments.{name}.task", registry.target, TASKS, asked.task, "task")
        check(f"experiments.{name}", check_model, asked.model, asked.options)
    if mistakes:
        raise ConfigError("\n".join(["the configuration is wrong:", *mistakes]))


Wildcards = Any  # Snakemake's: `wildcards.shard` and so on are text


class Plan:
    """A study's tables, figures and experiments, and the files they need."""

    def __init__(self, study: Study, workflow: Path) -> None:
        self.study = study
        check_study(study)
        self.arrays = study.arrays
        self.tables: dict[str, TableSpec] = {
            n: load_table(self._file(workflow, "tables", n), study) for n in study.tables
        }
        self.figures: dict[str, FigureSpec] = {
            n: load_figure(self._file(workflow, "figures", n), study) for n in study.figures
        }
        for name, table in self.tables.items():
            for row in table.rows:
                if absent := [file for file in row.predictions if not Path(file).is_file()]:
                    raise ConfigError(f"table {name}, row {row.row!r}: predictions: no file {absent[0]}")
        self._of_table = {n: tuple(spec.experiments(study).values()) for n, spec in self.tables.items()}
        self._of_figure = {n: tuple(spec.experiments(study).values()) for n, spec in self.figures.items()}
        self.of_study = {n: study.trained(n) for n in study.experiments}
        of_rows = chain.from_iterable([*self._of_table.values(), *self._of_figure.values()])
        asked = [*of_rows, *self.of_study.values()]
        self.experiments: dict[str, Experiment] = {e.id: e for one in asked for e in one.chain}
        for_tables = {e.id for one in (*self._of_table.values(), *self._of_figure.values()) for e in one}
        self._seeds: dict[str, tuple[int, ...]] = {}
        for name, experiment in self.of_study.items():
            given = study.experiments[name].seeds
            if given and experiment.id not in for_tables:
                before = self._seeds.get(experiment.id, ())
                self._seeds[experiment.id] = tuple(s for s in study.seeds if s in (*before, *given))
        self._processes = {e.id: study.experiments[n].processes for n, e in self.of_study.items()}
        self._check_presets()
        self._check_bundles()

    def seeds_of(self, experiment_id: str) -> tuple[int, ...]:
        """The seeds that an experiment is trained with."""
        return self._seeds.get(experiment_id, self.study.seeds)

    def jobs_of(self, experiment_id: str) -> list[tuple[int, ...]]:
        """The seeds of each job that trains an experiment. On features one job trains all, and loads them once; from clips, each
        seed is a job, because it takes long; without epochs it does not."""
        seeds, experiment = self.seeds_of(experiment_id), self.experiments[experiment_id]
        return [(seed,) for seed in seeds] if experiment.preset and experiment.recipe.epochs else [seeds]

    @property
    def by_seeds(self) -> dict[tuple[int, ...], list[str]]:
        """Seeds of a job -> the experiments with such a job. A rule's jobs have the same outputs, so each needs its own rule."""
        found: dict[tuple[int, ...], list[str]] = {}
        for name in self.experiments:
            for seeds in self.jobs_of(name):
                found.setdefault(seeds, []).append(name)
        return found

    def of_seeds(self, name: str, seeds: tuple[int, ...]) -> str:
        """A name with the seeds of a training's job, for its rule and its files; the name alone if these are the study's."""
        return name if seeds == self.study.seeds else f"{name}_seed_{'_'.join(map(str, seeds))}"

    def _check_presets(self) -> None:
        """Raise `ConfigError` for two formats of one name, or one that pads and reads more seconds than the dataset's clips have."""
        dataset = self.study.dataset
        length = clip_seconds(dataset.kind, dataset.options)
        names = [preset.name for preset in self.presets]
        for preset in self.presets:
            if names.count(preset.name) > 1:
                raise ConfigError(
                    f"presets.{preset.name}: another study, which trains the network of an extractor, has another format of "
                    "this name; take another name"
                )
            if preset.pad and preset.seconds > length:
                raise ConfigError(
                    f"preset {preset.name} reads {preset.seconds:g} s, but the clips are {length:g} s long "
                    f"(dataset.options): a preset may read less than a clip, never more"
                )

    def _check_bundles(self) -> None:
        """Raise `ConfigError` for a bundle whose extractors cannot share a job."""
        for bundle in self.study.bundles:
            arrays = [self.study.array(name) for name in bundle]
            read = {
                (a.preset, a.task if isinstance(a, LearnedConfig) else "")
                for a in arrays
                if not isinstance(a, ImportedConfig)
            }
            if len(read) > 1:
                raise ConfigError(
                    f"bundles: {', '.join(bundle)}: a job reads clips of one preset; networks of runs, which one task has "
                    "trained, cannot share it with others"
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
        """The arrays that a table needs or that the study asks for, in the study's order."""
        asked = [name for feature in self.study.features for name in self.study.arrays_of(feature)]
        needed = {name for e in self.experiments.values() for name in self.arrays_of(e)} | set(asked)
        return [name for name in self.arrays if name in needed]

    def arrays_of(self, experiment: Experiment) -> list[str]:
        """The arrays that the runs of an experiment read."""
        read = (experiment.arrays(seed) for seed in self.seeds_of(experiment.id))
        return sorted({name for arrays in read for name in arrays.values()})

    @property
    def extractors(self) -> list[str]:
        """The names in `features` that are extracted from clips."""
        return [name for name in self.features if not isinstance(self.arrays[name], ImportedConfig)]

    @property
    def imports(self) -> list[str]:
        """The names in `features` that are imported."""
        return [name for name in self.features if name in self.study.imported]

    @property
    def needs_media(self) -> bool:
        """Whether the clips' files are needed: by an extractor, by a figure, or because the study asks for no feature at all."""
        shown = any(spec.shows_clip for spec in self.figures.values())
        raw = any(experiment.preset for experiment in self.experiments.values())
        return bool(self.extractors) or raw or shown or not self.features

    def imported(self, name: str) -> ImportedConfig:
        """How a feature is imported, with the file that names the rows of an h5 file, where the dataset has one."""
        config, dataset = self.study.imported[name], self.study.dataset
        if config.format == "h5" and config.rows is None and dataset.kind == "ave" and dataset.annotations:
            return config.model_copy(update={"rows": f"{dataset.annotations}/Annotations.txt"})
        return config

    @property
    def presets(self) -> list[Preset]:
        """The formats that the study's clips are converted to, each once: that of `media` first."""
        read = [a.preset for a in self.arrays.values() if not isinstance(a, ImportedConfig)]
        read += [e.preset for e in self.experiments.values() if e.preset]
        return list(dict.fromkeys([self.study.media.preset, *read]))

    @property
    def bundles(self) -> list[tuple[str, ...]]:
        """The needed arrays, grouped by the job that computes them: those of `bundles`, and those of one experiment's runs."""
        needed, study = self.extractors, self.study
        bundles = [
            tuple(array for name in bundle for array in study.arrays_of(name) if array in needed)
            for bundle in study.bundles
        ]
        bundled = {name for bundle in bundles for name in bundle}
        of_run: dict[Any, list[str]] = {}
        for name in needed:
            if name not in bundled:
                array = self.arrays[name]
                same: Any = name
                if isinstance(array, LearnedConfig):
                    same = Path(array.checkpoint).parents[1], array.preset
                of_run.setdefault(same, []).append(name)
        return [bundle for bundle in bundles if bundle] + [tuple(names) for names in of_run.values()]

    @staticmethod
    def of_bundle(bundle: tuple[str, ...]) -> str:
        """A bundle's name, for its rules and their files."""
        return "_".join(bundle) if len(bundle) < 4 else f"{bundle[0]}_and_{len(bundle) - 1}_others"

    def chunk(self, extractor: str, shard: int | str) -> str:
        """The file that holds one shard of a feature: the output of the extraction job. `shard` may be a wildcard."""
        return f"{self.results}/features/{extractor}.zarr/{chunk_path(self.arrays[extractor], shard)}"

    def segments(self, bundle: tuple[str, ...]) -> str:
        """The tars that a bundle of extractors reads; the shard is a wildcard."""
        config = self.arrays[bundle[0]]
        assert not isinstance(config, ImportedConfig)
        return f"{self.results}/segments/{config.preset.name}/{{shard}}.tar"

    def extraction_threads(self, bundle: tuple[str, ...]) -> int:
        """Processor threads of an extraction. By a run's network on a CPU one, so that short jobs, which mostly start and decode, run
        side by side."""
        learned = isinstance(self.arrays[bundle[0]], LearnedConfig)
        return 1 if learned and not self.on_gpu else 4

    def extraction_memory(self, bundle: tuple[str, ...]) -> int:
        """MB of an extraction; with networks of runs, by measurements of AV-BT's of full size (docs/cluster.md)."""
        runs = {a.checkpoint for name in bundle if isinstance(a := self.arrays[name], LearnedConfig)}
        return min(3000 + 500 * len(runs), EXTRACTION_MB) if runs else EXTRACTION_MB

    def extract_code(self, bundle: tuple[str, ...]) -> str:
        """The fingerprint of everything that an extraction of these features executes, and of their networks' training."""
        arrays = [self.arrays[name] for name in bundle]
        if isinstance(arrays[0], LearnedConfig):
            return " ".join(dict.fromkeys(map(array_code, arrays)))
        return extract_code([self.study.with_backbone[name] for name in bundle])

    def runs(
        self, experiments: Iterable[Experiment], file: str, seeds: tuple[int, ...] | None = None
    ) -> list[str]:
        """The paths of `file` in the runs of the experiments with these seeds; default: all of theirs."""
        ids = sorted({experiment.id for experiment in experiments})
        return [
            f"{self.results}/runs/{i}/seed{seed}/{file}" for i in ids for seed in seeds or self.seeds_of(i)
        ]

    def checkpoints_before(self, experiment: Experiment, seeds: tuple[int, ...]) -> list[str]:
        """The checkpoints that the runs of an experiment with these seeds start from; none if it has no pretraining.

        Checkpoints of another dataset are made by that dataset's own study.
        """
        before = experiment.pretraining
        files = self.runs([before], "checkpoint.pt", seeds) if before else []
        other = experiment.pretrained_on
        return [file.replace(self.results, f"results/{other}", 1) for file in files] if other else files

    def figure_files(self, name: str) -> list[str]:
        """The files that a figure reads: of its experiments' runs, and of the dataset."""
        spec = self.figures[name]
        files = spec.run_files(self.study).items()
        of_runs = [path for file, seeds in files for path in self.runs(self._of_figure[name], file, seeds)]
        return of_runs + [f"{self.results}/{file}" for file in spec.dataset_files]

    @property
    def outcomes(self) -> list[str]:
        """What the study is run for, except for features: clips.parquet, tables, figures, and the runs of `experiments`."""
        tables = [f"tables/{name}.{end}" for name in self.tables for end in ("csv", "md", "tex", "html")]
        figures = [f"figures/{name}.{end}" for name in self.figures for end in ("svg", "png")]
        files = [f"{self.results}/{file}" for file in ("clips.parquet", *tables, *figures)]
        return files + self.runs(self.of_study.values(), "metrics.json")

    @property
    def annotation_files(self) -> list[str]:
        """The dataset's own annotation files; none for a plain folder, whose inventory is compared instead.

        Raises:
            ConfigError: if the study names a folder without files.
        """
        dataset = self.study.dataset
        if dataset.kind == "folder":
            return []
        if dataset.kind in RENDERERS:
            return [f"{self.results}/annotations"]
        folder = Path(self.annotations(None))
        files = sorted(str(f) for f in folder.glob("*") if f.is_file() and not f.name.startswith("."))
        if not files:
            raise ConfigError(
                f"dataset.annotations: no files in {folder}; put the annotation files of {dataset.kind} there"
            )
        return files

    @property
    def on_gpu(self) -> int:
        """GPUs of a job that computes: 1 if the study's `device` asks for them, else 0."""
        return int(self.study.device.startswith("cuda"))

    def group_of(self, stage: str, bundle: tuple[str, ...] = ()) -> str | None:
        """The group of a shard's jobs: one job of a cluster does all stages of the shard that neither download nor need a GPU.

        Extraction by a run's network waits for the training, which waits for the clips of all shards.
        """
        waits = any(isinstance(self.arrays[name], LearnedConfig) for name in bundle)
        alone = {"fetch": self.downloads_anything, "extract": bool(self.on_gpu) or waits}
        return None if alone.get(stage) else "shard"

    @property
    def downloads_anything(self) -> bool:
        """Whether a source is not on this machine's disks."""
        return any(not source.local_path for source in self.study.dataset.sources)

    @property
    def experiment_files(self) -> list[str]:
        """Where `write_experiments` writes."""
        return [f"{self.results}/runs/{name}/experiment.json" for name in self.experiments]

    def write_experiments(self) -> None:
        """Write every experiment to its folder, runs/{id}/experiment.json."""
        for path, experiment in zip(self.experiment_files, self.experiments.values(), strict=True):
            write_text(Path(path), experiment.to_json())

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

    def _narrowed(self, spec: TableSpec | FigureSpec, asked: Iterable[Experiment]) -> str:
        """The part of the study that decides a table or figure with these experiments, as json.

        It is a parameter of the table's job. So adding another table to the study does not rerun this one.
        """
        study = self.study
        experiments, named = self._behind([e for one in asked for e in one.chain])
        used = {name for experiment in experiments for name in experiment.features.values()}
        own = {e.preset.name: e.preset for e in experiments if e.preset and e.preset.name in study.presets}
        models = {experiment.model for experiment in experiments}
        keys = models | {f"{model}@{feature}" for model in models for feature in used}
        tasks = {experiment.task for experiment in experiments}
        asked_recipes = spec.recipe_names() | {str(asked["recipe"]) for asked in named.values()}
        recipes = {name: study.recipes[name] for name in sorted(asked_recipes) if name in study.recipes}
        part = {
            "dataset": {
                "name": study.dataset.name,
                "kind": study.dataset.kind,
                "options": {} if study.dataset.kind in RENDERERS else study.dataset.options,
            },
            "media": study.media.model_dump(mode="json"),
            "extractors": {
                n: study.extractors[n].model_dump(mode="json") for n in study.extractors if n in used
            },
            **_imported_part(study, used),
            **({"experiments": named} if named else {}),
            **({"presets": {n: p.model_dump(mode="json") for n, p in own.items()}} if own else {}),
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

    def _behind(self, asked: list[Experiment]) -> tuple[list[Experiment], dict[str, dict[str, Any]]]:
        """These experiments with those that train the networks of their features, and the study's text of the latter."""
        found, named = list(asked), dict[str, dict[str, Any]]()
        for experiment in found:  # grows
            for feature in experiment.features.values():
                config = self.study.extractors.get(feature)
                if isinstance(config, RunConfig) and config.study is None and config.run not in named:
                    entry = self.study.experiments[config.run]
                    named[config.run] = entry.model_dump(mode="json", exclude={"processes"})
                    found.append(self.of_study[config.run])
        return found, named

    # What rules ask. Snakemake calls these with the wildcards of a path: parts of it, by name. It calls them before the
    # manifest exists, where they answer None, and again before the job runs. A result is compared with the last run's, and
    # another one reruns the job, unless the function takes `input`.

    def index(self) -> dict[str, Any] | None:
        """The current manifest.json, or None. (Snakemake does not compare parameters that depend on an input file.)"""
        path = Path(self.results) / "manifest.json"
        return manifest_index(path) if path.exists() else None

    def shard_digest(self, wildcards: Wildcards) -> str | None:
        """A digest of a shard's rows and local files, so that a new clip or a changed file reruns its shard only."""
        return (self.index() or {"shards": {}})["shards"].get(wildcards.shard)

    def labels_digest(self, wildcards: Wildcards) -> str | None:
        """A digest of events and categories, so that a rewritten manifest alone reruns no training."""
        return (self.index() or {}).get("labels")

    def annotations(self, wildcards: Wildcards) -> str:
        """The folder of the dataset's own annotation files."""
        return self.study.dataset.annotations or f"{self.results}/annotations"

    def source_inventory(self, wildcards: Wildcards) -> str:
        """A digest of the local sources' files; the manifest is made again when it changes."""
        return inventory([Path(s.local_path) for s in self.study.dataset.sources if s.local_path])

    def source_identities(self, wildcards: Wildcards) -> list[str]:
        """The options that decide which clips the sources give; changes of speed, time limits and secrets rerun nothing."""
        return [source.identity() for source in self.study.dataset.sources]

    def source_options(self, wildcards: Wildcards, input: Any) -> list[str]:
        """The sources as options of a command; `source_identities` is compared instead."""
        return [f"--source={source.to_json()}" for source in self.study.dataset.sources]

    def local_source_options(self, wildcards: Wildcards) -> list[str]:
        """The local sources, whose files the manifest's job looks for."""
        return [f"--source={s.identity()}" for s in self.study.dataset.sources if s.local_path]

    def preset_option(self, wildcards: Wildcards) -> str:
        """The canonical format in a shard's path as an option of a command: its name, or json for the study's own."""
        chosen = next(preset for preset in self.presets if preset.name == wildcards.preset)
        option = named(chosen)
        return option if isinstance(option, str) else json.dumps(option)

    def device(self, wildcards: Wildcards, input: Any) -> str:
        """Where networks are computed; another device makes nothing stale."""
        return self.study.device

    def reader_options(self, wildcards: Wildcards) -> str:
        """Options of the dataset's reader, as json; none for a rendered dataset, whose options are for rendering."""
        return "{}" if self.study.dataset.kind in RENDERERS else self.demo_options(wildcards)

    def demo_options(self, wildcards: Wildcards) -> str:
        """Options of rendering the dataset, as json."""
        return json.dumps(self.study.dataset.options, sort_keys=True)

    def extractor_options(self, bundle: tuple[str, ...], wildcards: Wildcards) -> list[str]:
        """The settings of a bundle's extractors as options of a command."""
        settings = {name: self.arrays[name].model_dump(mode="json") for name in bundle}
        return [f"--extractor={json.dumps({name: setting})}" for name, setting in settings.items()]

    def extractor_weights(self, bundle: tuple[str, ...], wildcards: Wildcards) -> list[str]:
        """The checkpoints of the runs whose networks extract; none for other extractors.

        Raises:
            ConfigError: another study trains one, and has not yet.
        """
        learned = [config for name in bundle if isinstance(config := self.arrays[name], LearnedConfig)]
        found = sorted({config.checkpoint for config in learned})
        absent = [file for file in found if not Path(file).is_file()]
        for feature, asked in self.study.extractors.items() if absent else ():
            if isinstance(asked, RunConfig) and asked.study and {*bundle} & {*self.study.arrays_of(feature)}:
                raise ConfigError(
                    f"extractors.{feature}: {absent[0]} is missing. Train it first: "
                    f"snakemake --cores all {absent[0]} --configfile {asked.study}"
                )
        return found

    def imported_options(self, name: str, wildcards: Wildcards) -> str:
        """The settings of an imported feature, as json."""
        return json.dumps({name: self.imported(name).model_dump(mode="json")})

    def imported_inventory(self, name: str, wildcards: Wildcards) -> str:
        """Changes with the size or modification time of a published file."""
        config = self.imported(name)
        return inventory([Path(path) for path in (config.path, config.rows, config.noisy) if path])

    def experiment(self, wildcards: Wildcards) -> Experiment:
        """The experiment in a run's path."""
        if wildcards.experiment not in self.experiments:
            raise ConfigError(f"no table, figure or `experiments` of this study has {wildcards.experiment}")
        return self.experiments[wildcards.experiment]

    def run_features(self, wildcards: Wildcards) -> list[str]:
        """The coverage files of an experiment's features; each is made once the feature is complete."""
        names = self.arrays_of(self.experiment(wildcards))
        return [f"{self.results}/features/{name}.csv" for name in names]

    def run_start(self, seeds: tuple[int, ...], wildcards: Wildcards) -> list[str]:
        """The pretraining checkpoints that the runs with these seeds start from; none for most experiments."""
        return self.checkpoints_before(self.experiment(wildcards), seeds)

    def run_off_screen(self, wildcards: Wildcards) -> list[str]:
        """The clips of another dataset whose sounds a separation mixes in; none for most experiments.

        Raises:
            ConfigError: its study has not run.
        """
        name = self.experiment(wildcards).recipe.off_screen
        file = f"results/{name}/clips.parquet"
        if name and not Path(file).is_file():
            raise ConfigError(f"recipe.off_screen: {file} is missing. Run the study of {name} first")
        return [file] if name else []

    def run_code(self, wildcards: Wildcards) -> str:
        """The fingerprint of the training loop, the task and this experiment's model only."""
        return train_code(self.experiment(wildcards))

    def run_embed_code(self, wildcards: Wildcards) -> str:
        """The fingerprint of the code that embeds clips with this experiment's model only."""
        return embed_code(self.experiment(wildcards))

    def training(self, wildcards: Wildcards) -> Training:
        """What decides the resources of an experiment's training."""
        experiment = self.experiment(wildcards)
        clips = (self.index() or {"clips": 0})["clips"]
        if preset := experiment.preset:
            pictures = preset.segments * preset.width * preset.height * 3
            sound = preset.samples * preset.channels
            stored = preset.decoded_bytes if clips * preset.decoded_bytes <= KEPT_MB * 10**6 else 0
            return Training(experiment, 1, clips, pictures + sound, stored)
        arrays = [self.study.array(name) for name in set(experiment.features.values())]
        numbers = [math.prod(feature_shape(array)) for array in arrays]
        widths = [{"float16": 2, "float32": 4, "float64": 8}[array.dtype] for array in arrays]
        stored = sum(number * width for number, width in zip(numbers, widths, strict=True))
        return Training(experiment, len(self.seeds_of(experiment.id)), clips, sum(numbers), stored)

    def training_processes(self, wildcards: Wildcards, input: Any) -> int:
        """How many processes of its job train an experiment together."""
        return self._processes.get(wildcards.experiment, 1)

    def training_threads(self, wildcards: Wildcards) -> int:
        """Processor threads of a training, of all its processes."""
        return self.training_processes(wildcards, ()) * self.training(wildcards).threads

    def training_memory(self, wildcards: Wildcards, attempt: int) -> int:
        """Main memory of a training in MB; more for another attempt."""
        processes = self.training_processes(wildcards, ())
        return attempt * (processes * self.training(wildcards).memory_mb + _launchers_mb(processes))

    def training_minutes(self, wildcards: Wildcards, attempt: int) -> int:
        """Time of a training; more for another attempt."""
        return attempt * self.training(wildcards).minutes

    def training_gpu(self, wildcards: Wildcards, input: Any) -> int:
        """The percent of a GPU that a training needs, if it gets one."""
        return self.training(wildcards).gpu_percent

    def training_gpu_asked(self, wildcards: Wildcards) -> int:
        """`training_gpu` where the study's `device` asks for a GPU, else 0; each of several processes needs a GPU of its own."""
        processes = self.training_processes(wildcards, ())
        percent = self.training(wildcards).gpu_percent if processes == 1 else 100 * processes
        return self.on_gpu * percent

    def training_gpus(self, wildcards: Wildcards) -> int:
        """The GPUs of a training's job: one a process where the study's `device` asks for GPUs, else none."""
        return self.on_gpu * self.training_processes(wildcards, ())

    def feature_memory(self, wildcards: Wildcards, resources: Any) -> int:
        """The part of a training's memory that is left for features, in MB; of each process."""
        needed, processes = self.training(wildcards), self.training_processes(wildcards, ())
        own = (resources.mem_mb - _launchers_mb(processes)) // processes
        return max(0, own - needed.memory_mb + needed.features_mb)

    def table_inputs(self, wildcards: Wildcards) -> list[str]:
        """The metrics of every run of a table; for rows with `predictions` their files, and what the truth is read from."""
        spec = self.tables[wildcards.table]
        files = [file for row in spec.rows for file in row.predictions]
        truth = ("clips.parquet", "manifest.parquet", "events.parquet", "categories.csv") if files else ()
        runs = self.runs(self._of_table[wildcards.table], "metrics.json")
        # Runs of other studies; those that are there, since the table is also made without them.
        others = {f"results/{name}" for average in spec.averages.values() for name in average.datasets}
        elsewhere = [run.replace(self.results, other, 1) for other in sorted(others) for run in runs]
        runs += [run for run in elsewhere if Path(run).is_file()]
        return [*runs, *files, *(f"{self.results}/{file}" for file in truth)]

    def table_text(self, wildcards: Wildcards) -> str:
        """A table's file without comments."""
        return self.tables[wildcards.table].model_dump_json()

    def table_study(self, wildcards: Wildcards) -> str:
        """The part of the study that a table depends on."""
        return self._narrowed(self.tables[wildcards.table], self._of_table[wildcards.table])

    def figure_text(self, wildcards: Wildcards) -> str:
        """A figure's file without comments."""
        return self.figures[wildcards.figure].model_dump_json()

    def figure_code(self, wildcards: Wildcards) -> str:
        """The fingerprint of drawing a figure of this kind; no other kind's."""
        kind = registry.target(KINDS, self.figures[wildcards.figure].kind, "kind of figure")
        return code("figure", kind.split(":")[0])

    def figure_caption(self, wildcards: Wildcards) -> str:
        """The text beside a figure in the report."""
        return self.figures[wildcards.figure].caption

    def figure_study(self, wildcards: Wildcards) -> str:
        """The part of the study that a figure depends on."""
        return self._narrowed(self.figures[wildcards.figure], self._of_figure[wildcards.figure])


def _launchers_mb(processes: int) -> int:
    """MB beside the processes that train together: of the one that starts torchrun, and of torchrun. Both import torch (measured: 653, 558)."""
    return 1300 if processes > 1 else 0


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
