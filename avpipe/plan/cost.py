"""What a study takes, before it starts: jobs, processor time, disk, days of download, memory. `avpipe plan` prints it.

An amount that cannot be known yet is None, a gap, and the sum of others is then "more than".
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

from avpipe.datasets import RENDERERS, read_annotations
from avpipe.features.spec import backbone_of, feature_shape
from avpipe.plan import rates, registry
from avpipe.plan.extractor import ArrayConfig, ExtractorConfig, LearnedConfig
from avpipe.plan.plan import Plan
from avpipe.plan.rates import Rate
from avpipe.plan.resources import Training
from avpipe.plan.section import ConfigError
from avpipe.plan.source import YouTubeSource

PUBLISHED_CLIPS = {"ave": 4143, "llp": 11849, "ucf101": 13320}
"""Clips of a dataset's own annotation files (docs/datasets.md)."""
AUDIOSET_CLIPS = {"balanced": 22160, "unbalanced": 2041789, "eval": 20371}
"""The same for AudioSet's sets, by the first lines of their files (num_segs)."""
WIDTHS = {"float16": 2, "float32": 4, "float64": 8}
TRAINING = "avpipe/plan/resources.py, measured with headroom, one core"
PUBLISHED = "as published"
OWN = "this study's benchmarks"


@dataclass(frozen=True)
class Stage:
    """The jobs of one kind.

    Args:
        kind: as the rules are called.
        jobs: how many.
        core_hours: of processor time, all jobs together; None where nothing was measured.
        disk: bytes of their results; None where that is not known.
        source: where the rate of `core_hours` was measured.
    """

    kind: str
    jobs: int
    core_hours: float | None = 0.0
    disk: float | None = 0.0
    source: str = ""


@dataclass(frozen=True)
class Cost:
    """What a study, or a range of its shards, takes.

    Args:
        clips: how many, and `counted` where the number comes from.
        stages: kinds of jobs, in the order in which they run.
        download_days: of the clips that come from the network, all of them; None if no rate is known, 0 if none does.
        memory_mb: of the largest job, whose kind is `largest`.
        targets: what to type after `snakemake` to make this range only; "" for all.
    """

    clips: int
    counted: str
    stages: list[Stage] = field(default_factory=list)
    download_days: float | None = 0.0
    memory_mb: int = 0
    largest: str = ""
    targets: str = ""

    @property
    def jobs(self) -> int:
        """Jobs in all, without the target rule `all`."""
        return sum(stage.jobs for stage in self.stages)


def count_clips(plan: Plan) -> tuple[int, str]:
    """The clips of a study, and where their number comes from: manifest, annotation files, or what is published.

    Raises:
        ConfigError: none of them says it.
    """
    if index := plan.index():
        return index["clips"], f"{plan.results}/manifest.json"
    study = plan.study
    dataset = study.dataset
    if dataset.kind in RENDERERS:
        default = registry.options_of(RENDERERS[dataset.kind])["clips"]["default"]
        return int(dataset.options.get("clips", default)), "clips of the rendered dataset"
    folder = Path(study.folder or dataset.annotations or "")
    if (study.folder or dataset.annotations) and folder.is_dir() and any(folder.iterdir()):
        return len(read_annotations(dataset.kind, folder, **dataset.options).clips), f"files in {folder}"
    if dataset.kind in PUBLISHED_CLIPS:
        return PUBLISHED_CLIPS[dataset.kind], PUBLISHED
    sets = dataset.options.get("sets", ("balanced", "eval"))
    narrowed = dataset.options.keys() & {"classes", "per_class"}
    if dataset.kind == "audioset" and not narrowed and AUDIOSET_CLIPS.keys() >= set(sets):
        most = dataset.options.get("total") or math.inf
        return int(sum(min(AUDIOSET_CLIPS[name], most) for name in sets)), PUBLISHED
    raise ConfigError(
        f"how many clips has {dataset.name}? There is no manifest and no annotation file yet: give --clips N"
    )


def study_cost(plan: Plan, clips: int | None = None, shards: tuple[int, int] | None = None) -> Cost:
    """What a study takes.

    Args:
        plan: of the study.
        clips: how many; default: `count_clips`.
        shards: first and last shard of a part: its clips and features only, no training, table or figure.

    Raises:
        ConfigError: the number of clips is not known, or there are no such shards.
    """
    total, counted = (clips, "--clips") if clips is not None else count_clips(plan)
    size = plan.study.shard_size
    first, last = shards or (0, -(-total // size) - 1)
    if not 0 <= first <= last < -(-total // size):
        raise ConfigError(f"shards {first}-{last}: the study has the shards 0 to {-(-total // size) - 1}")
    number, part = last - first + 1, min(total, (last + 1) * size) - first * size
    stages = [Stage("demo", 1, None)] if plan.study.dataset.kind in RENDERERS else []
    stages += [Stage("manifest", 1)]
    if plan.needs_media:
        stages += _media(plan, number, part)
    stages += _features(plan, number, part)
    extractions = [(plan.extraction_memory(bundle), "extract") for bundle in plan.bundles]
    memory, largest = max([(rates.OTHER_MB, "manifest"), *extractions])
    if not shards:
        trained, needed = _after(plan, total)
        stages += trained
        memory, largest = max((memory, largest), (needed, "train"))
    return Cost(
        clips=part,
        counted=counted,
        stages=stages,
        download_days=_download_days(plan, part) if plan.needs_media else 0.0,
        memory_mb=memory,
        largest=largest,
        targets=" ".join(_targets(plan, first, last)) if shards else "",
    )


def _media(plan: Plan, shards: int, clips: int) -> list[Stage]:
    """Fetching and converting."""
    found = [Stage("fetch", shards, 0.0, _scaled(_bytes_a_clip(plan, "downloads", "downloads/files"), clips))]
    for preset in plan.presets:
        own = _own_rate(plan, f"normalise/{preset.name}")
        rate = own or Rate(rates.NORMALISE.amount * preset.seconds / 10, rates.NORMALISE.source)
        folder = f"segments/{preset.name}"
        disk = _bytes_a_clip(plan, folder, folder)
        hours = rate.amount * clips / 3600
        found.append(Stage(f"normalise {preset.name}", shards, hours, _scaled(disk, clips), rate.source))
    return found


def _features(plan: Plan, shards: int, clips: int) -> list[Stage]:
    """Extraction and import."""
    found, of_runs = [], Stage("extract networks of runs", 0, None, 0.0)
    for bundle in plan.bundles:
        rate = _own_rate(plan, f"extract/{plan.of_bundle(bundle)}") or _bundle_rate(
            [plan.arrays[n] for n in bundle]
        )
        disk = sum(_feature_bytes(plan.arrays[name]) for name in bundle) * clips
        hours = rate.amount * clips / 3600 if rate else None
        source = rate.source if rate else ""
        if isinstance(plan.arrays[bundle[0]], LearnedConfig):
            of_runs = replace(of_runs, jobs=of_runs.jobs + shards, disk=(of_runs.disk or 0) + disk)
        else:
            found.append(Stage(f"extract {' '.join(bundle)}", shards, hours, disk, source))
    found += [of_runs] if of_runs.jobs else []
    for name in plan.imports:
        found.append(Stage(f"import {name}", 1 + shards, None, _feature_bytes(plan.arrays[name]) * clips))
    return found


def _after(plan: Plan, clips: int) -> tuple[list[Stage], int]:
    """What follows the features, and the memory of the largest training in MB."""
    found, memory = [Stage("clips", 1)], 0
    if used := {name for e in plan.experiments.values() for name in plan.arrays_of(e)}:
        jobs = [*plan.bundles, *((name,) for name in plan.imports)]
        found.append(Stage("coverage", sum(not used.isdisjoint(names) for names in jobs)))
    if plan.experiments:
        found += [Stage("experiments", 1), *_trainings(plan, clips)]
        memory = max(_training(plan, name, clips).memory_mb for name in plan.experiments)
    embedded = {path for name in plan.figures for path in plan.figure_files(name) if path.endswith(".npz")}
    found += [Stage("embed", len(embedded), None)] if embedded else []
    found += [Stage("table", len(plan.tables))] if plan.tables else []
    found += [Stage("figure", len(plan.figures))] if plan.figures else []
    return found, memory


def _training(plan: Plan, name: str, clips: int) -> Training:
    """An experiment's training, with this number of clips."""
    return replace(plan.training(SimpleNamespace(experiment=name)), clips=clips)


def _trainings(plan: Plan, clips: int) -> list[Stage]:
    """Trainings from features, and from clips."""
    found = []
    for kind, raw in (("train", False), ("train from clips", True)):
        names = [name for name, e in plan.experiments.items() if bool(e.preset) is raw]
        folder = Path(plan.results) / "benchmarks" / "train"
        jobs = [(name, plan.of_seeds(name, seeds)) for name in names for seeds in plan.jobs_of(name)]
        own = {job: _own_seconds(folder / f"{job}.tsv") for _, job in jobs}
        seconds = [own[job] or _training(plan, name, clips).core_seconds for name, job in jobs]
        known = [amount for amount in seconds if amount is not None]
        ended = sum(amount is not None for amount in own.values())
        source = f"{OWN}, {ended} trainings" if ended else "" if raw else TRAINING
        if ended and ended < len(jobs) and not raw:
            source += f"; the others: {TRAINING}"
        hours = sum(known) / 3600 if len(known) == len(jobs) else None
        disk = [_folder_bytes(Path(plan.results) / "runs" / name) for name in names]
        done = [amount for amount in disk if amount is not None]
        if names:
            size = sum(done) / len(done) * len(names) if done else None
            found.append(Stage(kind, len(jobs), hours, size, source))
    return found


def _bundle_rate(configs: Iterable[ArrayConfig]) -> Rate | None:
    """Core seconds a clip of these extractors together; None if one was not measured."""
    seconds, sources = 0.0, list[str]()
    for config in configs:
        rate = extractor_rate(config) if isinstance(config, ExtractorConfig) else None
        if rate is None:
            return None
        seconds += rate.amount
        sources.append(rate.source)
    return Rate(seconds, "; ".join(dict.fromkeys(sources)))


def extractor_rate(config: ExtractorConfig) -> Rate | None:
    """Core seconds a clip in float32. The work of a network grows with the number of pictures and of their pixels."""
    known = rates.PICTURES | rates.SEGMENTS
    if config.backbone not in known:
        return None
    rate, kind = known[config.backbone], backbone_of(config.backbone).kind
    units = float(config.preset.segments)
    if kind == "2d":
        units *= config.fps * (config.image_size / 224) ** 2
    elif kind == "3d":
        units *= config.fps / 8 * (config.image_size / 112) ** 2
    return Rate(rate.amount * units, rate.source)


def _feature_bytes(config: ArrayConfig) -> int:
    """Bytes of a clip's feature, before compression."""
    return math.prod(feature_shape(config)) * WIDTHS[config.dtype]


def _download_days(plan: Plan, clips: int) -> float | None:
    """Days until all clips have come from the first source of the network; None where its speed is not known."""
    network = [source for source in plan.study.dataset.sources if not source.local_path]
    if not network:
        return 0.0
    rate = getattr(network[0], "rate", None)
    if isinstance(network[0], YouTubeSource):
        rate = rate or rates.CLIPS_AN_HOUR.amount
    return clips / rate / 24 if rate else None


def _own_rate(plan: Plan, stage: str) -> Rate | None:
    """Core seconds a clip by Snakemake's records of the study's finished shards."""
    files = sorted((Path(plan.results) / "benchmarks" / stage).glob("*.tsv"))
    seconds = {file: found for file in files if (found := _own_seconds(file)) is not None}
    clips = _clips_of(plan, seconds)
    return Rate(sum(seconds.values()) / clips, f"{OWN}, shards: {len(seconds)}") if clips else None


def _clips_of(plan: Plan, files: Iterable[Path]) -> int:
    """The clips of shards whose files have these names."""
    rows, size = (plan.index() or {"rows": 0})["rows"], plan.study.shard_size
    return sum(max(0, min(size, rows - int(file.stem) * size)) for file in files)


def _own_seconds(path: Path) -> float | None:
    """`cpu_time` of a job's record; None if there is none, or the job was too short to be looked at."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        times = [line["cpu_time"] for line in csv.DictReader(file, delimiter="\t")]
    return float(times[-1]) if times and times[-1] not in ("NA", "-") else None


def _bytes_a_clip(plan: Plan, tables: str, files: str) -> float | None:
    """Bytes a clip of `files`, in the shards of whose outcome there is one of `tables`; None without one."""
    clips = _clips_of(plan, Path(plan.results, tables).glob("[0-9]*.parquet"))
    total = _folder_bytes(Path(plan.results, files))
    return total / clips if clips and total is not None else None


def _folder_bytes(folder: Path) -> int | None:
    """Bytes of the files below a folder; None if there is no file."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(sizes) if sizes else None


def _scaled(amount: float | None, factor: float) -> float | None:
    return None if amount is None else amount * factor


def _targets(plan: Plan, first: int, last: int) -> list[str]:
    """The files of a range of shards: features, or the canonical clips where the study has none; for bash."""
    span = f"{{{first}..{last}}}" if last > first else str(first)
    if plan.features:
        return [plan.chunk(name, span) for name in plan.features]
    return [f"{plan.results}/segments/{preset.name}/{span}.tar" for preset in plan.presets]
