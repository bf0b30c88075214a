"""Fill a paper's table from runs: mean and standard deviation over seeds beside the published number; gaps stay."""

import json
import statistics
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from avpipe.files import write_text
from avpipe.metrics.metric import Metric
from avpipe.plan.experiment import Experiment, Setting
from avpipe.plan.extractor import RunConfig
from avpipe.plan.recipe import Recipe
from avpipe.plan.registry import suggest
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.tables.predictions import Scored, score_files
from avpipe.tables.render import RENDERERS, Cell, Table
from avpipe.tables.rows import Row
from avpipe.tables.runs import RunRecord, notice, read_run, shortened
from avpipe.tables.spec import TableSpec


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
    """Read the runs behind each row. Missing and failed runs leave gaps with a reason; every row stays."""
    experiments = spec.experiments(study)
    runs = {
        key: [read_run(results, experiment, seed) for seed in study.seeds]
        for key, experiment in experiments.items()
    }
    every = [run for of_row in runs.values() for run in of_row]
    known = {
        name: run.metric(spec.measured(name)) for run in every if run.problem is None for name in spec.metrics
    }
    scored = {
        row.row: score_files(row.predictions, row.task or spec.task, results)
        for row in spec.rows
        if row.predictions
    }
    cells = []
    for row in spec.rows:
        for setting in spec.settings:
            experiment = experiments.get((row.row, setting))
            for metric in spec.metrics:
                if row.predictions and setting in (row.settings or spec.settings):
                    unit = known.get(metric, Metric(metric, "%"))
                    cells.append(_scored(row, setting, metric, unit, scored[row.row]))
                elif experiment is None:
                    reason = row.gap or f"the row is not run in the {setting} setting"
                    published = row.published_number(setting, metric)
                    cells.append(Cell(row, setting, metric, published, notes=(reason,)))
                else:
                    named = [f"recipe {spec.recipe_name(row)}"] if spec.recipe_name(row) else []
                    deviations = (*named, *deviations_of(experiment, study))
                    own = runs[row.row, setting]
                    values = {run.seed: _value(run, metric, experiment, spec, results) for run in own}
                    cells.append(_measure(row, metric, experiment, own, values, deviations, study))
    baselines = _baselines(spec, every)
    said = notice(study, experiments.values())
    return Table(name, spec, said, tuple(cells), spec.headings(study), baselines, known)


def _baselines(spec: TableSpec, runs: Iterable[RunRecord]) -> tuple[str, ...]:
    """A phrase for each model-free baseline in the runs' metrics.json; two phrases if runs have different test clips."""
    found: dict[str, None] = {}
    for run in runs:
        for name, scores in (run.record.get("baselines") or {}).items():
            shown = [
                f"{heading} {run.metric(metric).printed(scores[metric]):.{spec.decimals}f}"
                for metric, heading in spec.metrics.items()
                if metric in scores
            ]
            if shown:
                found[f"{name}: {', '.join(shown)}"] = None
    return tuple(found)


def _scored(row: Row, setting: Setting, metric: str, unit: Metric, scored: Scored) -> Cell:
    """A cell of a row with `predictions`: mean and standard deviation over its files."""
    values = [unit.printed(scores[metric]) for scores in scored.scores if metric in scores]
    notes = (scored.origin, *([] if values else [f"predictions give no {metric}"]))
    return _cell(row, setting, metric, values, notes=notes)


def _cell(row: Row, setting: Setting, metric: str, values: list[float], **more: Any) -> Cell:
    return Cell(
        row,
        setting,
        metric,
        row.published_number(setting, metric),
        mean=statistics.fmean(values) if values else None,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n_seeds=len(values),
        **more,
    )


def _measure(
    row: Row,
    metric: str,
    experiment: Experiment,
    runs: list[RunRecord],
    found: dict[int, float | str],
    deviations: tuple[str, ...],
    study: Study,
) -> Cell:
    setting, protocol = experiment.setting, experiment.recipe.protocol
    values = [value for value in found.values() if isinstance(value, float)]
    return _cell(
        row,
        setting,
        metric,
        values,
        protocol=protocol,
        deviations=deviations,
        runs=tuple(run.name for run in runs),
        notes=(*_notes(found, runs), *_remarks(experiment, study)),
    )


def _value(
    run: RunRecord, metric: str, experiment: Experiment, spec: TableSpec, results: Path
) -> float | str:
    """A run's number in a column, or why it has none. A mean over datasets needs the runs of this seed in all of them."""
    protocol, measured = experiment.recipe.protocol, spec.measured(metric)
    own = run.value(protocol, measured)
    if metric not in spec.averages:
        return own
    values = {results.name: own}
    for name in spec.averages[metric].datasets:
        other = read_run(results.parent / name, experiment, run.seed)
        values[name] = other.value(protocol, measured)
    absent = [f"{name}: {value}" for name, value in values.items() if isinstance(value, str)]
    return absent[0] if absent else statistics.fmean(float(value) for value in values.values())


RECIPE_DEVIATIONS = ("shuffle", "drop_last", "weak_labels")
"""Keys of a recipe that repeat a paper's protocol and change numbers, though they are no part of a method."""
DATASET_DEVIATIONS = {
    "conflicts": "keep",
    "shared_ids": "keep",
    "noisy": 0,
    "labels": "",
    "audio_csv": "AVVP_eval_audio.csv",
}
"""Options of a dataset's reader that change which clips are used, or their labels -> their defaults."""


def deviations_of(experiment: Experiment, study: Study) -> tuple[str, ...]:
    """Options with other values than the default that change the protocol or the clips; for example "shuffle: false"."""
    recipe, options = experiment.recipe, study.dataset.options
    given = {key: (getattr(recipe, key), Recipe.model_fields[key].default) for key in RECIPE_DEVIATIONS}
    if experiment.setting == "supervised":
        del given["weak_labels"]
    given |= {key: (options[key], default) for key, default in DATASET_DEVIATIONS.items() if key in options}
    changed = {key: value for key, (value, default) in given.items() if value != default}
    return tuple(f"{key}: {str(v).lower() if isinstance(v, bool) else v}" for key, v in changed.items())


def _notes(found: dict[int, float | str], runs: list[RunRecord]) -> tuple[str, ...]:
    """Reasons why seeds have no number, then missing clips, then a remark if the seeds ran different code."""
    seeds: dict[str, list[int]] = {}
    for seed, value in found.items():
        if isinstance(value, str):
            seeds.setdefault(shortened(value), []).append(seed)
    notes = [f"{_seeds(numbers)}: {reason}" for reason, numbers in seeds.items()]
    notes += dict.fromkeys(phrase for run in runs for phrase in run.missing_clips())
    if len({run.record.get("code") for run in runs if run.problem is None}) > 1:
        notes.append("the seeds were not run with the same code")
    return tuple(notes)


def _remarks(experiment: Experiment, study: Study) -> list[str]:
    """The rule that turns probabilities into a prediction, unless it is the default rule; trainings that came before."""
    keys = ("gate", "gate_threshold", "threshold")
    given = {key: getattr(experiment.recipe, key) for key in keys}
    changed = [f"{key} {value}" for key, value in given.items() if value != Recipe.model_fields[key].default]
    remarks = [f"predicted with {', '.join(changed)}"] if changed else []
    if experiment.pretraining:
        remarks.append(f"pretrained on {experiment.pretrained_on or study.dataset.name}")
    learned = [n for n in experiment.features.values() if isinstance(study.extractors.get(n), RunConfig)]
    return remarks + list(dict.fromkeys(_encoder(name, study) for name in learned))


def _encoder(feature: str, study: Study) -> str:
    """By which of our trainings a feature's network was made."""
    config = study.extractors[feature]
    assert isinstance(config, RunConfig)
    trained = study.trainer(feature)[1].recipe
    seed = "of the same seed" if config.seed is None else f"seed {config.seed}"
    return f"features of the training {config.run} ({seed}, {trained.optimizer}, {trained.epochs} epochs)"


def _seeds(numbers: list[int]) -> str:
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def why(
    table: str, row: str, metric: str, setting: str | None, spec: TableSpec, study: Study, results: Path
) -> str:
    """Where a cell comes from: runs, numbers, configuration, code fingerprint, environment, features, log.

    Args:
        table: the table's name.
        row: slug of the row.
        metric: a metric of the table.
        setting: one of the table's settings; None: all of them.

    Raises:
        ConfigError: for a row, metric or setting that the table does not have, with a suggestion.
    """
    rows = [row.row for row in spec.rows]
    for what, name, known in (
        ("row", row, rows),
        ("metric", metric, [*spec.metrics]),
        ("setting", setting, [*spec.settings]),
    ):
        if name is not None and name not in known:
            raise ConfigError(f"{table} has no {what} {name!r}; {suggest(name, list(known))}")
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
    measured = "gap"
    if cell.mean is not None:
        spread = "" if cell.sd is None else f" ± {cell.sd:.{digits + 1}f}"
        number = f"{cell.mean:.{digits + 1}f}{spread}"
        checkpoint = f", checkpoint: {cell.whole_protocol}" if cell.protocol else ""
        measured = f"{number}   n = {cell.n_seeds}{checkpoint}"
    lines = [
        f"{table.name} / {cell.row.method} ({cell.row.row}) / {cell.setting} / {cell.metric}",
        *([f"  {table.notice.text}"] if table.notice else []),
        f"  {table.headings[0]}  {published}   {spec.source}",
        f"  {table.headings[1]}   {measured}",
        *(f"  no model   {baseline}" for baseline in table.baselines),
        *(f"  note       {note}" for note in cell.notes),
    ]
    if experiment is None:
        return "\n".join(lines)
    runs = [read_run(results, experiment, seed) for seed in study.seeds]
    lines.append("runs")
    for run in runs:
        value = _value(run, cell.metric, experiment, spec, results)
        lines += _explain_run(run, value, results, experiment.recipe.protocol, digits)
    lines += ["experiment", _indented({"id": experiment.id, **experiment.model_dump(mode="json")})]
    extractors = {
        name: config.model_dump(mode="json")
        for feature in experiment.features.values()
        for name, config in study.arrays_of(feature).items()
    }
    lines += ["extractors", _indented(extractors)]
    for key in ("code", "pretraining", "features", "parameters", "counts", "device", "environment"):
        lines += _per_seed(key, runs)
    return "\n".join(lines)


def _explain_run(run: RunRecord, value: float | str, results: Path, protocol: str, digits: int) -> list[str]:
    facts = [f"{value:.{digits + 1}f}" if isinstance(value, float) else f"gap: {value}"]
    epoch, seconds = (run.record.get("epochs") or {}).get(protocol), run.record.get("seconds")
    facts += [f"epoch {epoch}"] if epoch is not None else []
    facts += [f"{seconds:.0f} s"] if seconds else []
    return [
        f"  seed {run.seed}  {'  '.join(facts)}",
        f"    {results / run.name}",
        f"    log: {run.record.get('log') or 'none'}",
    ]


def _per_seed(key: str, runs: list[RunRecord]) -> list[str]:
    """The runs' values of `key` in metrics.json: one value if all seeds agree, else one for each group of seeds."""
    found: dict[str, tuple[Any, list[int]]] = {}
    for run in runs:
        if key in run.record:
            value = run.record[key]
            found.setdefault(json.dumps(value, sort_keys=True), (value, []))[1].append(run.seed)
    lines = []
    for value, seeds in found.values():
        lines.append(key if len(found) == 1 else f"{key} ({_seeds(seeds)})")
        lines.append(_indented(value) if isinstance(value, dict) else f"  {value}")
    return lines


def _indented(value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
    return textwrap.indent(text.rstrip(), "  ")
