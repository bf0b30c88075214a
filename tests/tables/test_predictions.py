"""A row that is scored from files of predictions: its numbers, where they come from, and what is refused."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.spec import parse_figure
from avpipe.tables.aggregate import why, write_table
from avpipe.tables.predictions import study_truth
from avpipe.tables.spec import parse_table
from tests.training.conftest import write_study


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with 16 test clips of 10 segments, one of which could not be had."""
    results = tmp_path_factory.mktemp("predictions") / "results" / "toy"
    write_study(results)
    clips = pd.read_parquet(results / "clips.parquet")
    clips.loc[clips["clip"] == "clip79", "status"] = "private"
    clips.to_parquet(results / "clips.parquet")
    return results


def predict(results: Path, file: Path, wrong: int) -> pd.DataFrame:
    """Write predictions with so many wrong segments."""
    table = study_truth(results, "localization").rename(columns={"truth": "prediction"})
    table.loc[: wrong - 1, "prediction"] = (table["prediction"] + 1) % 4
    table.to_parquet(file)
    return table


def with_row(table_data: dict[str, Any], **row: Any) -> dict[str, Any]:
    given = {"row": "mine", "method": "Mine", "settings": ["supervised"], **row}
    return {**table_data, "rows": [given, *table_data["rows"]]}


def test_files_are_scored_and_named_in_the_csv(
    results: Path, study: Study, table_data: dict[str, Any], tmp_path: Path
) -> None:
    files = [str(tmp_path / f"{name}.parquet") for name in ("a", "b")]
    for file, wrong in zip(files, (15, 45), strict=True):
        predict(results, Path(file), wrong)
    for given, expected in ((files[0], ("90.0000", "", "1")), (files, ("80.0000", "14.1421", "2"))):
        spec = parse_table(with_row(table_data, predictions=given, published={"supervised": 91.0}), "small")
        write_table("small", spec, study, results)
        with (results / "tables" / "small.csv").open() as file:
            mine, other = [line for line in csv.DictReader(file) if line["row"] == "mine"]
        # 15 test clips, 150 segments: 135 and 105 are right, 90 % and 70 %; sd = sqrt(10^2 + 10^2)
        assert (mine["mean"], mine["sd"], mine["n_seeds"]) == expected
        assert (mine["published"], mine["protocol"], mine["runs"]) == ("91.0", "", "")
        assert mine["note"].startswith(f"not trained here: scored from {files[0]} (SHA-256 ")
        assert (other["mean"], other["note"]) == ("", "the row is not run in the weakly-supervised setting")
        said = why("small", "mine", "accuracy", "supervised", spec, study, results)
        assert f"{float(expected[0]):.2f}" in said
        assert "checkpoint" not in said
    assert ("mine", "supervised") not in spec.experiments(study)


def test_a_file_without_all_clips_stops_the_table_and_names_them(
    results: Path, study: Study, table_data: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "some.parquet"
    table = predict(results, file, 0)
    table[~table["clip"].isin(["clip70", "clip71"])].to_parquet(file)
    spec = parse_table(with_row(table_data, predictions=str(file)), "small")
    with pytest.raises(ValueError, match=r"some.parquet: predictions: 2 of 15 clips .*: clip70, clip71$"):
        write_table("small", spec, study, results)


def test_cross_modality_is_scored_on_the_split_made_for_it(tmp_path: Path) -> None:
    write_study(tmp_path)
    manifest = pd.read_parquet(tmp_path / "manifest.parquet")
    split = np.where(manifest["split"] == "val", "test", "train")
    manifest.assign(match_split=split, match_order=0).to_parquet(tmp_path / "manifest.parquet")
    of_val = set(manifest.loc[manifest["split"] == "val", "clip"])
    assert set(study_truth(tmp_path, "cross_modality")["clip"]) < of_val  # two of them have no event
    assert not set(study_truth(tmp_path, "localization")["clip"]) & of_val


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"model": "avel"}, "predictions: a row with predictions runs nothing; remove model"),
        ({"settings": None}, "settings: name the one setting"),
        ({"gap": "none yet"}, "remove settings, predictions, or gap"),
    ],
)
def test_a_row_with_predictions_has_nothing_to_train(
    row: dict[str, Any], message: str, table_data: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_table(with_row(table_data, predictions="a.parquet", **row), "small")


def test_a_row_with_predictions_is_not_repeated_for_each_backbone(
    table_data: dict[str, Any], study: Study
) -> None:
    several = study.model_copy(
        update={"backbones": {"vgg16_map": ("supervised",), "vggish": ("supervised",)}}
    )
    data = with_row({**table_data, "each": "visual", "rows": table_data["rows"][:1]}, predictions="a.parquet")
    assert [row.row for row in parse_table(data, "grid", several).rows] == [
        "mine",
        "avel-vgg16_map",
        "avel-vggish",
    ]


def test_figures_show_no_rows_with_predictions(table_data: dict[str, Any]) -> None:
    rows = [{"row": "mine", "method": "Mine", "predictions": "a.parquet"}]
    with pytest.raises(ConfigError, match="predictions: only a table can show it"):
        parse_figure({"kind": "confusion", "title": "T", "task": "localization", "rows": rows}, "figure")
