"""Cells are mean ± sd over seeds; what is missing is a gap with a reason; `why` shows what is behind a cell."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avpipe.plan.experiment import Experiment
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.tables.aggregate import Cell, fill_table, why, write_table
from avpipe.tables.render import as_html, as_latex, as_markdown
from avpipe.tables.spec import TableSpec, parse_table


@pytest.fixture
def spec(table_data: dict[str, Any]) -> TableSpec:
    return parse_table(table_data, "small")


@pytest.fixture
def supervised(spec: TableSpec, study: Study) -> Experiment:
    return spec.experiments(study)["avel", "supervised"]


def cell(
    spec: TableSpec, study: Study, results: Path, row: str = "avel", setting: str = "supervised"
) -> Cell:
    return fill_table("small", spec, study, results).cell(row, setting, "accuracy")


def test_a_cell_is_mean_and_sample_standard_deviation_in_percent(
    spec: TableSpec, supervised: Experiment, study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    for seed, accuracy in enumerate((0.70, 0.72, 0.74)):
        write_run(supervised, seed, accuracy)
    found = cell(spec, study, tmp_path)
    assert found.mean == pytest.approx(72.0)  # (70 + 72 + 74) / 3
    assert found.sd == pytest.approx(2.0)  # sqrt((4 + 0 + 4) / (3 - 1))
    assert (found.n_seeds, found.protocol, found.published, found.notes) == (3, "validation", 72.7, ())
    assert found.runs == tuple(f"runs/{supervised.id}/seed{seed}" for seed in (0, 1, 2))


def test_a_failed_and_an_absent_seed_are_noted_and_the_rest_averaged(
    spec: TableSpec, supervised: Experiment, study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    write_run(supervised, 0, 0.70)
    write_run(supervised, 1, 0.0, status="failed", reason="out\nof memory")
    found = cell(spec, study, tmp_path)
    assert (found.mean, found.sd, found.n_seeds) == (pytest.approx(70.0), None, 1)
    assert found.notes == ("seed 1: failed: out of memory", "seed 2: no run yet (metrics.json is missing)")


def test_a_row_without_any_run_is_a_gap_and_stays(spec: TableSpec, study: Study, tmp_path: Path) -> None:
    found = cell(spec, study, tmp_path)
    assert (found.mean, found.n_seeds, found.published) == (None, 0, 72.7)
    assert found.notes == ("seeds 0, 1, 2: no run yet (metrics.json is missing)",)


def test_a_row_without_a_model_shows_the_published_number_and_why(
    spec: TableSpec, study: Study, tmp_path: Path
) -> None:
    found = cell(spec, study, tmp_path, row="dam")
    assert (found.published, found.mean, found.protocol, found.notes) == (74.5, None, None, ("no model yet",))
    assert cell(spec, study, tmp_path, row="dam", setting="weakly-supervised").published is None


def test_a_setting_in_which_the_row_is_not_run_is_a_gap(
    table_data: dict[str, Any], study: Study, tmp_path: Path
) -> None:
    table_data["rows"][0]["settings"] = ["supervised"]
    found = cell(parse_table(table_data, "small"), study, tmp_path, setting="weakly-supervised")
    assert (found.published, found.notes) == (66.7, ("the row is not run in the weakly-supervised setting",))


def test_the_recipes_protocol_decides_the_number(
    table_data: dict[str, Any], study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    table_data["rows"][0]["recipe"] = {"protocol": "best_test"}
    spec = parse_table(table_data, "small")
    write_run(spec.experiments(study)["avel", "supervised"], 0, 0.5)
    found = cell(spec, study, tmp_path)
    assert (found.mean, found.protocol) == (pytest.approx(75.0), "best_test")


def test_a_cell_says_which_of_the_papers_habits_it_follows(
    table_data: dict[str, Any], study: Study, tmp_path: Path
) -> None:
    habits = {"protocol": "best_test", "shuffle": False, "drop_last": True, "weak_labels": "durations"}
    table_data["rows"][0]["recipe"] = {**habits, "lr": 0.5}
    dataset = study.dataset.model_copy(update={"options": {"conflicts": "drop", "shared_ids": "keep"}})
    cleaned = study.model_copy(update={"dataset": dataset})
    spec = parse_table(table_data, "small")
    found = cell(spec, cleaned, tmp_path)
    assert found.whole_protocol == "best_test; shuffle: false; drop_last: true; conflicts: drop"
    weak = cell(spec, cleaned, tmp_path, setting="weakly-supervised")
    assert weak.quirks == ("shuffle: false", "drop_last: true", "weak_labels: durations", "conflicts: drop")
    assert cell(spec, study, tmp_path, row="dam").whole_protocol == ""


def test_a_cell_names_the_recipe_that_its_row_asks_for(
    table_data: dict[str, Any], study: Study, tmp_path: Path
) -> None:
    table_data["rows"][0]["recipe"] = "short"
    assert (
        cell(parse_table(table_data, "small"), study, tmp_path).whole_protocol == "validation; recipe short"
    )


def test_what_predictions_without_a_model_score_is_said_once(
    spec: TableSpec, supervised: Experiment, study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    for seed in (0, 1, 2):
        write_run(supervised, seed, 0.5, floors={"background everywhere": {"accuracy": 0.384, "other": 1.0}})
    table = fill_table("small", spec, study, tmp_path)
    assert table.floors == ("background everywhere: Acc. 38.4",)
    for render in (as_markdown, as_html, as_latex):
        assert render(table).count("Without a model, background everywhere: Acc. 38.4.") == 1


def test_missing_clips_and_mixed_code_are_noted(
    spec: TableSpec, supervised: Experiment, study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    for seed in (0, 1, 2):
        write_run(
            supervised, seed, 0.5, code=f"code of {min(seed, 1)}", counts={"test": 59, "test_named": 62}
        )
    assert cell(spec, study, tmp_path).notes == (
        "test clips 59 of 62",
        "the seeds were not run with the same code",
    )


def test_four_files_are_written_and_the_csv_is_the_contract(
    spec: TableSpec, supervised: Experiment, study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    for seed, accuracy in enumerate((0.70, 0.72, 0.74)):
        write_run(supervised, seed, accuracy)
    write_table("small", spec, study, tmp_path)
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == [
        "small.csv",
        "small.html",
        "small.md",
        "small.tex",
    ]
    with (tmp_path / "tables" / "small.csv").open(newline="") as file:
        header, first, *others = csv.reader(file)
    assert header == [
        "row",
        "method",
        "setting",
        "metric",
        "published",
        "mean",
        "sd",
        "n_seeds",
        "protocol",
        "runs",
        "note",
    ]
    runs = " ".join(f"runs/{supervised.id}/seed{seed}" for seed in (0, 1, 2))
    assert first == [
        "avel",
        "AVEL",
        "supervised",
        "accuracy",
        "72.7",
        "72.0000",
        "2.0000",
        "3",
        "validation",
        runs,
        "",
    ]
    assert [line[0] for line in others] == ["avel", "dam", "dam"]
    assert others[-1] == [
        "dam",
        "DAM",
        "weakly-supervised",
        "accuracy",
        "",
        "",
        "",
        "0",
        "",
        "",
        "no model yet",
    ]


def test_why_shows_everything_behind_a_cell(
    spec: TableSpec, supervised: Experiment, study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    write_run(supervised, 0, 0.70)
    write_run(supervised, 1, 0.72, status="failed", reason="a long story " * 40)
    text = why("small", "avel", "accuracy", "supervised", spec, study, tmp_path)
    for part in (
        "small / AVEL (avel) / supervised / accuracy", "published  72.7   Nobody, 2020, Table 1",
        "measured   70.00   n = 1, checkpoint: validation", "seed 0  70.00  epoch 3  12 s",
        str(tmp_path / "runs" / supervised.id / "seed0"), "log: logs/train.log", "a long story " * 40,
        "model: avel", "epochs: 100", "0123456789abcdef", "python: 3.11.9", "sha256: " + "ab" * 32, "backbone: vgg16",
    ):  # fmt: skip
        assert part.strip() in text
    assert "weakly-supervised /" not in text


def test_why_without_a_setting_shows_all(spec: TableSpec, study: Study, tmp_path: Path) -> None:
    text = why("small", "dam", "accuracy", None, spec, study, tmp_path)
    assert "DAM (dam) / supervised" in text
    assert "DAM (dam) / weakly-supervised" in text
    assert text.count("no model yet") == 2


def test_why_lists_what_differs_between_seeds(
    spec: TableSpec, supervised: Experiment, study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    for seed, device in enumerate(("cpu", "cuda", "cpu")):
        write_run(supervised, seed, 0.5, device=device)
    text = why("small", "avel", "accuracy", "supervised", spec, study, tmp_path)
    assert "device (seeds 0, 2)\n  cpu\ndevice (seed 1)\n  cuda" in text


def test_why_names_the_model_that_each_run_started_from(
    spec: TableSpec, supervised: Experiment, study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    for seed in range(2):
        write_run(supervised, seed, 0.5, pretraining={"experiment_id": "avg-1", "weights": f"{seed}" * 16})
    text = why("small", "avel", "accuracy", "supervised", spec, study, tmp_path)
    assert "pretraining (seed 1)\n  experiment_id: avg-1\n  weights: '1111111111111111'" in text


@pytest.mark.parametrize(
    ("row", "metric", "setting", "message"),
    [
        ("avle", "accuracy", None, "small has no row 'avle'; did you mean 'avel'"),
        ("avel", "acuracy", None, "small has no metric 'acuracy'; did you mean 'accuracy'"),
        ("avel", "accuracy", "weak", "small has no setting 'weak'"),
    ],
)
def test_why_helps_with_typos(
    row: str, metric: str, setting: str | None, message: str, spec: TableSpec, study: Study, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        why("small", row, metric, setting, spec, study, tmp_path)


def test_a_rule_of_prediction_that_is_not_the_default_is_named(
    table_data: dict[str, Any], study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    table_data["rows"][0]["recipe"] = {"gate": "modality", "threshold": 0.45}
    spec = parse_table(table_data, "small")
    for seed in range(3):
        write_run(spec.experiments(study)["avel", "supervised"], seed, 0.7)
    found = cell(spec, study, tmp_path)
    assert found.notes == ("predicted with gate modality, threshold 0.45",)
    table_data["rows"][0]["recipe"] = {"gate": "clip", "threshold": 0.5}
    assert not any(
        "predicted" in note for note in cell(parse_table(table_data, "small"), study, tmp_path).notes
    )


def test_several_metrics_of_one_setting_stand_side_by_side(
    table_data: dict[str, Any], study: Study, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    kinds = ("audio", "visual", "audio_visual", "type", "event")
    metrics = {f"segment_{kind}": kind for kind in kinds}
    numbers = {name: 50.0 + k for k, name in enumerate(metrics)}
    row = table_data["rows"][0] | {"model": "han", "published": {"weakly-supervised": numbers}}
    changes = {"task": "parsing", "metrics": metrics, "settings": ["weakly-supervised"], "rows": [row]}
    spec = parse_table(table_data | changes, "small")
    measured = {name: number / 100 + 0.01 for name, number in numbers.items()}
    for seed in range(3):
        write_run(
            spec.experiments(study)["avel", "weakly-supervised"], seed, 0, metrics={"validation": measured}
        )
    write_table("small", spec, study, tmp_path)
    with (tmp_path / "tables" / "small.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["metric"] for line in lines] == list(metrics)
    assert [float(line["published"]) for line in lines] == list(numbers.values())
    assert [float(line["mean"]) for line in lines] == pytest.approx(
        [number + 1 for number in numbers.values()]
    )
    markdown = (tmp_path / "tables" / "small.md").read_text(encoding="utf-8")
    assert all(
        f"{number:.1f} | " in markdown and f"{number + 1:.1f}" in markdown for number in numbers.values()
    )
    assert all((tmp_path / "tables" / f"small.{ending}").is_file() for ending in ("tex", "html"))
