"""Cells are mean ± sd over seeds; what is missing is a gap with a reason; `why` shows where a cell comes from."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from avpipe.plan.experiment import Experiment, Setting
from avpipe.plan.recipe import Recipe
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.tables.aggregate import fill_table, why, write_table
from avpipe.tables.render import COLUMNS, Cell, as_html, as_latex, as_markdown
from avpipe.tables.spec import TableSpec, parse_table
from tests import builders

from .conftest import WriteRun


@dataclass
class Toy:
    """The small table with a study, its results folder and runs of AVEL."""

    study: Study
    data: dict[str, Any]
    results: Path
    write_run: WriteRun

    @property
    def spec(self) -> TableSpec:
        return parse_table(self.data, "small")

    def experiment(self, setting: Setting = "supervised") -> Experiment:
        return self.spec.experiments(self.study)["avel", setting]

    def write(self, *accuracies: float, **changes: Any) -> None:
        """A run of the supervised AVEL for each accuracy, seeds 0, 1, ..."""
        for seed, accuracy in enumerate(accuracies):
            self.write_run(self.experiment(), seed, accuracy, **changes)

    def cell(self, row: str = "avel", setting: str = "supervised") -> Cell:
        return fill_table("small", self.spec, self.study, self.results).cell(row, setting, "accuracy")

    def why(self, row: str = "avel", metric: str = "accuracy", setting: str | None = "supervised") -> str:
        return why("small", row, metric, setting, self.spec, self.study, self.results)


@pytest.fixture
def toy(study: Study, table_data: dict[str, Any], tmp_path: Path, write_run: WriteRun) -> Toy:
    return Toy(study, table_data, tmp_path, write_run)


def test_a_cell_is_mean_and_sample_standard_deviation_in_percent(toy: Toy) -> None:
    toy.write(0.70, 0.72, 0.74)
    found = toy.cell()
    assert found.mean == pytest.approx(72.0)  # (70 + 72 + 74) / 3
    assert found.sd == pytest.approx(2.0)  # sqrt((4 + 0 + 4) / (3 - 1))
    assert (found.n_seeds, found.protocol, found.published, found.notes) == (3, "validation", 72.7, ())
    assert found.runs == tuple(f"runs/{toy.experiment().id}/seed{seed}" for seed in (0, 1, 2))


def test_a_column_may_be_the_mean_over_datasets_and_needs_every_one_of_them(toy: Toy, tmp_path: Path) -> None:
    toy.data["metrics"] = {"accuracy": "Acc.", "mean": "Mean"}
    toy.data["averages"] = {"mean": {"metric": "accuracy", "datasets": ["second", "third"]}}
    for row in toy.data["rows"]:
        row["published"] = {}
    toy.results = tmp_path / "first"
    for name, accuracies in (("first", (0.6, 0.7)), ("second", (0.5, 0.8)), ("third", (0.4,))):
        for seed, accuracy in enumerate(accuracies):
            builders.write_run(tmp_path / name, toy.experiment(), seed, accuracy)
    filled = fill_table("small", toy.spec, toy.study, toy.results)
    assert filled.cell("avel", "supervised", "accuracy").mean == pytest.approx(65.0)
    found = filled.cell("avel", "supervised", "mean")
    assert (found.mean, found.n_seeds) == (pytest.approx(50.0), 1)  # (60 + 50 + 40) / 3
    assert found.notes == (
        "seed 1: third: no run yet (metrics.json is missing)",
        "seed 2: first: no run yet (metrics.json is missing)",
    )
    assert "gap: third: no run yet" in toy.why(metric="mean")


def test_a_failed_and_an_absent_seed_are_noted_and_the_rest_averaged(toy: Toy) -> None:
    toy.write(0.70)
    toy.write_run(toy.experiment(), 1, 0.0, status="failed", reason="out\nof memory")
    found = toy.cell()
    assert (found.mean, found.sd, found.n_seeds) == (pytest.approx(70.0), None, 1)
    assert found.notes == ("seed 1: failed: out of memory", "seed 2: no run yet (metrics.json is missing)")


def test_a_row_without_any_run_is_a_gap_and_stays(toy: Toy) -> None:
    found = toy.cell()
    assert (found.mean, found.n_seeds, found.published) == (None, 0, 72.7)
    assert found.notes == ("seeds 0, 1, 2: no run yet (metrics.json is missing)",)


def test_a_row_without_a_model_shows_the_published_number_and_why(toy: Toy) -> None:
    found = toy.cell("dam")
    assert (found.published, found.mean, found.whole_protocol, found.notes) == (
        74.5,
        None,
        "",
        ("no model yet",),
    )
    assert toy.cell("dam", "weakly-supervised").published is None


def test_a_setting_in_which_the_row_is_not_run_is_a_gap(toy: Toy) -> None:
    toy.data["rows"][0]["settings"] = ["supervised"]
    found = toy.cell(setting="weakly-supervised")
    assert (found.published, found.notes) == (66.7, ("the row is not run in the weakly-supervised setting",))


def test_the_recipes_protocol_decides_the_number(toy: Toy) -> None:
    toy.data["rows"][0]["recipe"] = {"protocol": "best_test"}
    toy.write(0.5)
    assert (toy.cell().mean, toy.cell().protocol) == (pytest.approx(75.0), "best_test")


def test_a_cell_lists_deviations_from_the_default_protocol(toy: Toy) -> None:
    deviations = {"protocol": "best_test", "shuffle": False, "drop_last": True, "weak_labels": "durations"}
    toy.data["rows"][0]["recipe"] = {**deviations, "lr": 0.5}
    dataset = toy.study.dataset.model_copy(update={"options": {"conflicts": "drop", "shared_ids": "keep"}})
    toy.study = toy.study.model_copy(update={"dataset": dataset})
    assert toy.cell().whole_protocol == "best_test; shuffle: false; drop_last: true; conflicts: drop"
    weak = toy.cell(setting="weakly-supervised").deviations
    assert weak == ("shuffle: false", "drop_last: true", "weak_labels: durations", "conflicts: drop")


def test_a_cell_names_the_recipe_that_its_row_asks_for(toy: Toy) -> None:
    toy.data["rows"][0]["recipe"] = "short"
    assert toy.cell().whole_protocol == "validation; recipe short"


def test_a_cell_says_on_which_clips_its_model_was_pretrained(toy: Toy) -> None:
    for dataset, named in ((None, "toy"), ("audioset_pretraining", "audioset_pretraining")):
        toy.data["rows"][0]["pretraining"] = {"model": "avg", "dataset": dataset}
        assert toy.cell().notes[-1] == f"pretrained on {named}"


def test_scores_of_model_free_baselines_are_written_once(toy: Toy) -> None:
    toy.write(0.5, 0.5, 0.5, baselines={"background everywhere": {"accuracy": 0.384, "other": 1.0}})
    table = fill_table("small", toy.spec, toy.study, toy.results)
    assert table.baselines == ("background everywhere: Acc. 38.4",)
    for render in (as_markdown, as_html, as_latex):
        assert render(table).count("Without a model, background everywhere: Acc. 38.4.") == 1


@pytest.mark.parametrize(
    ("dataset", "name", "headings"),
    [
        ("AVE", "toy", ("published (AVE)", "measured (toy)")),
        ("AVE", "avenue", ("published (AVE)", "measured (avenue)")),
        ("AVE", "ave_features", ("published", "measured")),
        (None, "toy", ("published", "measured")),
    ],
)
def test_published_numbers_on_another_dataset_are_marked(
    dataset: str | None, name: str, headings: tuple[str, str], toy: Toy
) -> None:
    toy.data["dataset"] = dataset
    toy.study = toy.study.model_copy(update={"dataset": toy.study.dataset.model_copy(update={"name": name})})
    table = fill_table("small", toy.spec, toy.study, toy.results)
    assert f"{headings[0]} | {headings[1]} |" in as_markdown(table)
    assert all(f">{heading}</th>" in as_html(table) for heading in headings)
    assert f"& {headings[0]} & {headings[1]} " in as_latex(table)
    marks = [line["note"].endswith(", ".join(headings)) for line in read_csv(toy)]
    assert marks == [headings[0] != "published"] * 3 + [False]  # DAM has no weakly supervised number
    assert f"{headings[0]}  72.7 " in toy.why()


def test_missing_clips_and_mixed_code_are_noted(toy: Toy) -> None:
    for seed in (0, 1, 2):
        counts = {"test": 59, "test_named": 62}
        toy.write_run(toy.experiment(), seed, code=f"code of {min(seed, 1)}", counts=counts)
    assert toy.cell().notes == ("test clips 59 of 62", "the seeds were not run with the same code")


def test_a_rule_of_prediction_that_is_not_the_default_is_named(toy: Toy) -> None:
    toy.study = toy.study.model_copy(update={"training": Recipe(gate="modality", threshold=0.45)})
    toy.write(0.7, 0.7, 0.7)
    assert toy.cell().notes == ("predicted with gate modality, threshold 0.45",)
    toy.study = toy.study.model_copy(update={"training": Recipe()})
    assert not any("predicted" in note for note in toy.cell().notes)


def read_csv(toy: Toy) -> list[dict[str, str]]:
    write_table("small", toy.spec, toy.study, toy.results)
    with (toy.results / "tables" / "small.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_four_files_are_written_and_the_csv_is_the_contract(toy: Toy) -> None:
    toy.write(0.70, 0.72, 0.74)
    first, *others = read_csv(toy)
    files = sorted(path.suffix for path in (toy.results / "tables").iterdir())
    assert files == [".csv", ".html", ".md", ".tex"]
    columns = "row method setting metric published mean sd n_seeds protocol runs note"
    assert list(first) == list(COLUMNS) == columns.split()
    runs = " ".join(f"runs/{toy.experiment().id}/seed{seed}" for seed in (0, 1, 2))
    numbers = ["72.7", "72.0000", "2.0000", "3"]
    assert list(first.values()) == [
        "avel",
        "AVEL",
        "supervised",
        "accuracy",
        *numbers,
        "validation",
        runs,
        "",
    ]
    assert [line["row"] for line in others] == ["avel", "dam", "dam"]
    gap = ["", "", "", "0", "", "", "no model yet"]
    assert list(others[-1].values()) == ["dam", "DAM", "weakly-supervised", "accuracy", *gap]


def test_several_metrics_of_one_setting_are_separate_lines_and_columns(toy: Toy) -> None:
    metrics = {f"segment_{kind}": kind for kind in ("audio", "visual", "audio_visual", "type", "event")}
    numbers = {name: 50.0 + k for k, name in enumerate(metrics)}
    row = toy.data["rows"][0] | {"model": "han", "published": {"weakly-supervised": numbers}}
    toy.data |= {"task": "parsing", "metrics": metrics, "settings": ["weakly-supervised"], "rows": [row]}
    measured = {name: number / 100 + 0.01 for name, number in numbers.items()}
    for seed in range(3):
        toy.write_run(toy.experiment("weakly-supervised"), seed, metrics={"validation": measured})
    lines = read_csv(toy)
    assert [(line["metric"], float(line["published"])) for line in lines] == list(numbers.items())
    assert [float(line["mean"]) for line in lines] == pytest.approx([n + 1 for n in numbers.values()])
    markdown = (toy.results / "tables" / "small.md").read_text(encoding="utf-8")
    assert all(f"{n:.1f} | " in markdown and f"{n + 1:.1f}" in markdown for n in numbers.values())


def test_why_shows_everything_behind_a_cell(toy: Toy) -> None:
    toy.write(0.70)
    toy.write_run(toy.experiment(), 1, 0.72, status="failed", reason="a long story " * 40)
    text = toy.why()
    for part in (
        "small / AVEL (avel) / supervised / accuracy", "published  72.7   Nobody, 2020, Table 1",
        "measured   70.00   n = 1, checkpoint: validation", "seed 0  70.00  epoch 3  12 s",
        str(toy.results / "runs" / toy.experiment().id / "seed0"), "log: logs/train.log", "a long story " * 40,
        "model: avel", "epochs: 100", "0123456789abcdef", "python: 3.11.9", "sha256: " + "ab" * 32, "backbone: vgg16",
    ):  # fmt: skip
        assert part.strip() in text
    assert "weakly-supervised /" not in text


def test_why_without_a_setting_shows_all(toy: Toy) -> None:
    text = toy.why("dam", setting=None)
    assert "DAM (dam) / supervised" in text
    assert "DAM (dam) / weakly-supervised" in text
    assert text.count("no model yet") == 2


def test_why_lists_what_differs_between_seeds(toy: Toy) -> None:
    for seed, device in enumerate(("cpu", "cuda", "cpu")):
        before = {"experiment_id": "avg-1", "weights": f"{seed}" * 4}
        toy.write_run(toy.experiment(), seed, device=device, pretraining=before)
    text = toy.why()
    assert "device (seeds 0, 2)\n  cpu\ndevice (seed 1)\n  cuda" in text
    assert "pretraining (seed 1)\n  experiment_id: avg-1\n  weights: '1111'" in text


@pytest.mark.parametrize(
    ("row", "metric", "setting", "message"),
    [
        ("avle", "accuracy", None, "no row 'avle'; did you mean 'avel'"),
        ("avel", "acuracy", None, "no metric 'acuracy'; did you mean 'accuracy'"),
        ("avel", "accuracy", "weak", "no setting 'weak'"),
    ],
)
def test_why_helps_with_typos(row: str, metric: str, setting: str | None, message: str, toy: Toy) -> None:
    with pytest.raises(ConfigError, match=message):
        toy.why(row, metric, setting)


def test_a_unit_stands_in_the_heading_and_the_best_is_the_lowest_where_lower_is_better(toy: Toy) -> None:
    toy.data["rows"] = [{**toy.data["rows"][0], "row": name, "published": {}} for name in ("one", "two")]
    toy.data["rows"][1]["recipe"] = {"epochs": 7}
    units = {"accuracy": {"heading": "Error", "unit": "dB", "higher_is_better": False, "decimals": 2}}
    for row, error in (("one", 1.5), ("two", 0.75)):
        toy.write_run(toy.spec.experiments(toy.study)[row, "supervised"], 0, error, units=units)
    text = as_markdown(fill_table("small", toy.spec, toy.study, toy.results))
    for shown in (
        "supervised: Acc. (dB) |",
        " 1.50 (n=1)",
        "**0.75** (n=1)",
        "where the heading names no other unit",
    ):
        assert shown in text
