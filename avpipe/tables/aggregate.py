"""From runs to a paper's table: mean and standard deviation over seeds beside the published number, gaps kept."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from avpipe.files import write_text
from avpipe.plan.experiment import Experiment, Setting
from avpipe.plan.recipe import Recipe
from avpipe.plan.registry import suggest
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.tables.render import RENDERERS
from avpipe.tables.runs import Notice, Run, notice, read_run, shortened
from avpipe.tables.spec import Row, TableSpec


@dataclass(frozen=True)
class Cell:
    """One number of a table. Published, mean and sd are in percent; costs in the units of `runs.COSTS`.

    Args:
        mean: over the seeds that have a number; None is a gap, and `notes` say why.
        sd: sample standard deviation (n - 1); None for fewer than two seeds.
        n_seeds: seeds behind the mean.
        protocol: how the checkpoint was chosen: validation, last, best_test; None for a row without experiment.
        quirks: what else is not the default protocol, such as "shuffle: false" (see `quirks_of`).
        runs: folders below the results of the runs that were looked for.
        notes: why numbers are missing, and what is special about those that are there.
    """

    row: Row
    setting: Setting
    metric: str
    published: float | None
    mean: float | None = None
    sd: float | None = None
    n_seeds: int = 0
    protocol: str | None = None
    quirks: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def whole_protocol(self) -> str:
        """For example "best_test; drop_last: true"; "" for a row without experiment."""
        return "; ".join([self.protocol, *self.quirks]) if self.protocol else ""


@dataclass(frozen=True)
class Table:
    """A filled table: cells in the order rows, settings, metrics; `notice` where they are no reproduction.

    `floors` say what predictions without a model score, for example "background everywhere: Acc. 38.4".
    """

    name: str
    spec: TableSpec
    notice: Notice | None
    cells: tuple[Cell, ...]
    floors: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The printed title, after the notice's tag."""
        return f"[{self.notice.tag}] {self.spec.title}" if self.notice else self.spec.title

    def cell(self, row: str, setting: str, metric: str) -> Cell:
        """The cell in this row and column."""
        return next(c for c in self.cells if (c.row.row, c.setting, c.metric) == (row, setting, metric))


def write_table(name: str, spec: TableSpec, study: Study, results: Path) -> None:
    """Fill a table from the runs in `results`/runs and write it to `results`/tables.

    Args:
        name: of the files: tables/{name}.csv, .md, .tex and .html.
        spec: what `load_table` read from workflow/tables.
        study: extractors, seeds, recipes and notice.
        results: the study's folder, results/{dataset}.

    Raises:
        ConfigError: if the table asks for what the study does not have.
    """
    table = fill_table(name, spec, study, results)
    for ending, render in RENDERERS.items():
        write_text(results / "tables" / f"{name}.{ending}", render(table))


def fill_table(name: str, spec: TableSpec, study: Study, results: Path) -> Table:
    """Read the runs behind each row. Missing and failed runs leave gaps with a reason; no row is dropped."""
    experiments = spec.experiments(study)
    runs = {
        key: [read_run(results, experiment, seed) for seed in study.seeds]
        for key, experiment in experiments.items()
    }
    cells = []
    for row in spec.rows:
        for setting in spec.settings:
            for metric in spec.metrics:
                published = spec.published(row, setting, metric)
                experiment = experiments.get((row.row, setting))
                if experiment is None:
                    reason = row.gap or f"the row is not run in the {setting} setting"
                    cells.append(Cell(row, setting, metric, published, notes=(reason,)))
                else:
                    cell = _measure(row, setting, metric, published, experiment, runs[row.row, setting])
                    trained = spec.recipe_name(row)
                    named = (f"recipe {trained}",) if trained else ()
                    cells.append(replace(cell, quirks=(*named, *quirks_of(experiment, study))))
    floors = _floors(spec, [run for of_row in runs.values() for run in of_row])
    return Table(name, spec, notice(study, experiments.values()), tuple(cells), floors)


def _floors(spec: TableSpec, runs: Iterable[Run]) -> tuple[str, ...]:
    """A sentence for each prediction without a model that the runs name; two where runs have different test clips."""
    found: dict[str, None] = {}
    for run in runs:
        for name, scores in (run.record.get("floors") or {}).items():
            shown = [
                f"{heading} {100 * scores[metric]:.{spec.decimals}f}"
                for metric, heading in spec.metrics.items()
                if metric in scores
            ]
            if shown:
                found[f"{name}: {', '.join(shown)}"] = None
    return tuple(found)


def _measure(
    row: Row, setting: Setting, metric: str, published: float | None, experiment: Experiment, runs: list[Run]
) -> Cell:
    protocol = experiment.recipe.protocol
    found = {run.seed: run.value(protocol, metric) for run in runs}
    values = [value for value in found.values() if isinstance(value, float)]
    return Cell(
        row,
        setting,
        metric,
        published,
        mean=statistics.fmean(values) if values else None,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n_seeds=len(values),
        protocol=protocol,
        runs=tuple(run.name for run in runs),
        notes=(*_notes(found, runs), *_rule(experiment.recipe)),
    )


QUIRKS = ("shuffle", "drop_last", "weak_labels")
"""Keys of a recipe that papers' code sets and that change numbers, though they are no part of a method."""
DATASET_QUIRKS = {
    "conflicts": "keep",
    "shared_ids": "keep",
    "noisy": 0,
    "labels": "",
    "audio_csv": "AVVP_eval_audio.csv",
}
"""Options of a dataset's reader that change which clips are used, or their labels; and their defaults."""


def quirks_of(experiment: Experiment, study: Study) -> tuple[str, ...]:
    """Options, off by default, that repeat a paper's protocol, or clean the data; for example "shuffle: false"."""
    recipe, options = experiment.recipe, study.dataset.options
    given = {key: (getattr(recipe, key), Recipe.model_fields[key].default) for key in QUIRKS}
    if experiment.setting == "supervised":
        del given["weak_labels"]
    given |= {key: (options[key], default) for key, default in DATASET_QUIRKS.items() if key in options}
    changed = {key: value for key, (value, default) in given.items() if value != default}
    return tuple(f"{key}: {str(v).lower() if isinstance(v, bool) else v}" for key, v in changed.items())


def _notes(found: dict[int, float | str], runs: list[Run]) -> tuple[str, ...]:
    """Why seeds have no number, seeds of the same reason together; then clips that are missing, then mixed code."""
    seeds: dict[str, list[int]] = {}
    for seed, value in found.items():
        if isinstance(value, str):
            seeds.setdefault(shortened(value), []).append(seed)
    notes = [f"{_seeds(numbers)}: {reason}" for reason, numbers in seeds.items()]
    notes += dict.fromkeys(phrase for run in runs for phrase in run.missing_clips())
    if len({run.record.get("code") for run in runs if run.problem is None}) > 1:
        notes.append("the seeds were not run with the same code")
    return tuple(notes)


def _rule(recipe: Recipe) -> list[str]:
    """How probabilities became a prediction, where that is not the default rule."""
    keys = ("gate", "gate_threshold", "threshold")
    given = {key: getattr(recipe, key) for key in keys}
    changed = [f"{key} {value}" for key, value in given.items() if value != Recipe.model_fields[key].default]
    return [f"predicted with {', '.join(changed)}"] if changed else []


def _seeds(numbers: list[int]) -> str:
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def why(
    table: str, row: str, metric: str, setting: str | None, spec: TableSpec, study: Study, results: Path
) -> str:
    """What stands behind a cell: runs, numbers, configuration, code fingerprint, environment, features, log.

    Args:
        table: the table's name.
        row: slug of the row.
        metric: a metric of the table.
        setting: one of the table's settings; None: all of them.

    Raises:
        ConfigError: for a row, metric or setting that the table does not have, with a suggestion.
    """
    spec.find(row)
    if metric not in spec.metrics:
        raise ConfigError(f"{table} has no metric {metric!r}; {suggest(metric, list(spec.metrics))}")
    if setting is not None and setting not in spec.settings:
        raise ConfigError(f"{table} has no setting {setting!r}; {suggest(setting, list(spec.settings))}")
    filled = fill_table(table, spec, study, results)
    experiments = spec.experiments(study)
    blocks = []
    for chosen in spec.settings if setting is None else (setting,):
        cell = filled.cell(row, chosen, metric)
        blocks.append(_explain(filled, cell, experiments.get((row, cell.setting)), study, results))
    return "\n\n".join(blocks)


def _explain(table: Table, cell: Cell, experiment: Experiment | None, study: Study, results: Path) -> str:
    spec, digits = table.spec, table.spec.decimals
    published = "not published" if cell.published is None else f"{cell.published:.{digits}f}"
    lines = [f"{table.name} / {cell.row.method} ({cell.row.row}) / {cell.setting} / {cell.metric}"]
    lines += [f"  {table.notice.text}"] if table.notice else []
    lines.append(f"  published  {published}   {spec.paper}, {spec.printed}")
    if cell.mean is None:
        lines.append("  measured   gap")
    else:
        spread = "" if cell.sd is None else f" ± {cell.sd:.{digits + 1}f}"
        lines.append(
            f"  measured   {cell.mean:.{digits + 1}f}{spread}   n = {cell.n_seeds}, checkpoint: {cell.whole_protocol}"
        )
    lines += [f"  no model   {floor}" for floor in table.floors]
    lines += [f"  note       {note}" for note in cell.notes]
    if experiment is None:
        return "\n".join(lines)
    runs = [read_run(results, experiment, seed) for seed in study.seeds]
    lines.append("runs")
    for run in runs:
        lines += _explain_run(run, results, experiment.recipe.protocol, cell.metric, digits)
    lines += ["experiment", _indented({"id": experiment.id, **experiment.model_dump(mode="json")})]
    extractors = {name: study.arrays[name].model_dump(mode="json") for name in experiment.features.values()}
    lines += ["extractors", _indented(extractors)]
    for key in ("code", "pretraining", "features", "parameters", "counts", "device", "environment"):
        lines += _shared(key, runs)
    return "\n".join(lines)


def _explain_run(run: Run, results: Path, protocol: str, metric: str, digits: int) -> list[str]:
    value = run.value(protocol, metric)
    number = f"{value:.{digits + 1}f}" if isinstance(value, float) else f"gap: {value}"
    epoch = (run.record.get("epochs") or {}).get(protocol)
    seconds = run.record.get("seconds")
    facts = [
        number,
        *([f"epoch {epoch}"] if epoch is not None else []),
        *([f"{seconds:.0f} s"] if seconds else []),
    ]
    return [
        f"  seed {run.seed}  {'  '.join(facts)}",
        f"    {results / run.name}",
        f"    log: {run.record.get('log') or 'none'}",
    ]


def _shared(key: str, runs: list[Run]) -> list[str]:
    """What the runs say under `key`: once where they agree, else a seed at a time."""
    said: dict[str, tuple[Any, list[int]]] = {}
    for run in runs:
        if key in run.record:
            value = run.record[key]
            said.setdefault(json.dumps(value, sort_keys=True), (value, []))[1].append(run.seed)
    if len(said) == 1:
        return [
            key,
            _indented(value) if isinstance(value := next(iter(said.values()))[0], dict) else f"  {value}",
        ]
    lines = []
    for value, seeds in said.values():
        lines += [f"{key} ({_seeds(seeds)})", _indented(value) if isinstance(value, dict) else f"  {value}"]
    return lines


def _indented(value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110).rstrip()
    return "\n".join(f"  {line}" for line in text.splitlines())
