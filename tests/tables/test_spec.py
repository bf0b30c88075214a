"""A table's file says which experiments exist; its mistakes are named with file, row and key."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from avpipe.media.presets import PRESETS
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.tables.spec import load_table, parse_table

AVG = {"model": "avg", "options": {"objective": "uni"}}


def test_reading_tables_imports_nothing_heavy() -> None:
    probe = "import sys, avpipe.tables.spec; print({'torch', 'pandas', 'numpy', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_each_row_with_a_model_is_an_experiment_in_each_setting(
    study: Study, table_data: dict[str, Any]
) -> None:
    experiments = parse_table(table_data, "small", study).experiments(study)
    assert list(experiments) == [("avel", "supervised"), ("avel", "weakly-supervised")]
    experiment = experiments["avel", "supervised"]
    assert experiment.features == {"audio": "vggish", "visual": "vgg16_map"}
    assert experiment.recipe == study.training
    assert experiment.id != experiments["avel", "weakly-supervised"].id


def test_a_row_replaces_defaults_and_may_exist_in_one_setting_only(
    study: Study, table_data: dict[str, Any]
) -> None:
    table_data["rows"][0] |= {
        "options": {"inputs": "audio"}, "features": {"audio": "vggish"}, "settings": ["weakly-supervised"], "recipe": {"refine_epochs": 5},
        "task": "refined_parsing",
    }  # fmt: skip
    ((key, experiment),) = parse_table(table_data, "small", study).experiments(study).items()
    assert key == ("avel", "weakly-supervised")
    assert experiment.features == {"audio": "vggish"}
    assert experiment.options == {"inputs": "audio"}
    assert experiment.recipe.refine_epochs == 5
    assert experiment.task == "refined_parsing"


def test_a_recipe_may_be_one_of_the_studys(study: Study, table_data: dict[str, Any]) -> None:
    table_data["defaults"]["recipe"] = "short"
    spec = parse_table(table_data, "small", study)
    assert spec.recipe_names() == {"short"}
    assert spec.experiments(study)["avel", "supervised"].recipe.epochs == 7


def test_the_same_experiment_in_two_tables_is_one_run(study: Study, table_data: dict[str, Any]) -> None:
    other = copy.deepcopy(table_data)
    other["rows"][0] |= {"row": "ours", "method": "Another name"}
    first = parse_table(table_data, "small", study).experiments(study)["avel", "supervised"]
    second = parse_table(other, "other", study).experiments(study)["ours", "supervised"]
    assert first.id == second.id


def test_a_table_survives_being_passed_to_a_job_as_json(study: Study, table_data: dict[str, Any]) -> None:
    spec = parse_table(table_data, "small", study)
    again = parse_table(json.loads(spec.model_dump_json()), "small", study)
    assert again == spec
    assert again.experiments(study) == spec.experiments(study)


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (0, {"model": "avell"}, r"row 'avel': model: .*'avell'; did you mean 'avel'"),
        (0, {"options": {"input": "audio"}}, r"row 'avel': options: .*'input'; did you mean 'inputs'"),
        (0, {"options": {"inputs": "smell"}}, r"row 'avel': options: .*inputs is one of .*not 'smell'"),
        (0, {"optons": {}}, r"row 'avel': optons: .*did you mean 'options'"),
        (0, {"settings": ["fully"]}, r"row 'avel': settings.0: .*'supervised', 'weakly-supervised'"),
        (0, {"published": {"superviced": 1.0}}, r"row 'avel': published.superviced"),
        (0, {"published": {"supervised": {"acuracy": 1.0}}}, r"published.supervised.acuracy: no such metric; did you mean"),
        (0, {"published": {"supervised": "high"}}, r"row 'avel': published.supervised"),
        (0, {"features": {"smell": "nose"}}, r"row 'avel': features.smell"),
        (0, {"features": {"audio": "vgish"}}, r"row 'avel': features.audio: .*no extractor 'vgish'.*did you mean 'vggish'"),
        (0, {"features": {}}, r"row 'avel': features: are missing"),
        (0, {"recipe": {"epoch": 5}}, r"row 'avel': recipe: epoch: .*did you mean 'epochs'"),
        (0, {"recipe": {"epochs": 0}}, r"row 'avel': recipe: .*epochs: 0 leaves"),
        (0, {"recipe": "long"}, r"row 'avel': recipe: no recipe 'long'"),
        (0, {"model": None}, r"row 'avel': model: is missing"),
        (1, {"model": "avel"}, r"row 'dam': gap: .*remove model"),
        (1, {"row": "avel"}, r"row 'avel': row: two rows have this name"),
        (1, {"row": "a/b"}, r"row 'a/b': row: .*pattern"),
        (0, {"pretraining": AVG | {"model": "avgg"}}, r"pretraining.model: .*'avgg'; did you mean 'avg'"),
        (0, {"pretraining": AVG | {"options": {"objectiv": "uni"}}}, r"pretraining.options: .* did you mean 'objective'"),
        (0, {"pretraining": AVG | {"recipe": {"epochs": 0}}}, r"row 'avel': pretraining.recipe: .*epochs: 0"),
        (0, {"pretraining": AVG | {"recipe": "shrt"}}, r"row 'avel': pretraining.recipe: .*'shrt'"),
        (0, {"pretraining": AVG | {"features": {"audio": "vgish"}}}, r"pretraining.features.audio: .* did you mean 'vggish'"),
        (0, {"pretraining": AVG | {"objective": "uni"}}, r"row 'avel': pretraining.objective"),
        (1, {"pretraining": AVG}, r"row 'dam': gap: .*remove pretraining"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_file_row_and_key(
    row: int, change: dict[str, Any], message: str, study: Study, table_data: dict[str, Any], tmp_path: Path
) -> None:
    table_data["rows"][row] |= change
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(table_data), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        load_table(path, study).experiments(study)
    assert str(path) in str(error.value)


def test_all_mistakes_are_named_at_once(table_data: dict[str, Any]) -> None:
    table_data["rows"][0]["model"] = "avell"
    table_data["rows"][1]["options"] = {"a": 1}
    with pytest.raises(ConfigError, match=r"(?s)row 'avel': model.*row 'dam': gap"):
        parse_table(table_data, "small")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metrics": {"accuracy": "Acc.", "seconds": "Time"}},
            r"published\.supervised: .* accuracy, seconds",
        ),
        ({"settings": ["supervised"]}, r"published\.weakly-supervised: the table's settings"),
    ],
)
def test_a_published_number_needs_a_column(
    changes: dict[str, Any], message: str, table_data: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_table(table_data | changes, "small")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: A\nrows: []\ntitle: B\n", "'title' stands twice"),
        ("- 1\n", "keys .* found list"),
        ("a: [1", "not valid YAML"),
        ("a: \xff", "not valid YAML"),
        (None, r"broken\.yaml does not exist"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        load_table(path)


def test_a_rows_model_options_replace_the_studys(study: Study, table_data: dict[str, Any]) -> None:
    small = study.model_copy(update={"models": {"avel": {"hidden_dim": 32, "attention_dim": 16}}})
    table_data["rows"][0]["options"] = {"hidden_dim": 64}
    experiment = parse_table(table_data, "small").experiments(small)["avel", "supervised"]
    assert experiment.options == {"hidden_dim": 64, "attention_dim": 16}


def test_a_studys_model_options_may_be_for_one_feature(study: Study, table_data: dict[str, Any]) -> None:
    models = {
        "avel": {"hidden_dim": 32, "attention_dim": 16},
        "avel@vgg16_map": {"hidden_dim": 8, "fusion": "dmrn"},
    }
    several = study.model_copy(update={"models": models})
    table_data["rows"] = [
        {"row": "both", "method": "AVEL", "model": "avel", "options": {"fusion": "concatenation"}},
        {"row": "audio", "method": "AVEL", "model": "avel", "features": {"audio": "vggish"}},
    ]
    found = parse_table(table_data, "small").experiments(several)
    assert found["both", "supervised"].options == {
        "hidden_dim": 8,
        "attention_dim": 16,
        "fusion": "concatenation",
    }
    assert found["audio", "supervised"].options == models["avel"]


@pytest.mark.parametrize("of_row", [True, False])
def test_a_row_without_motion_needs_no_motion_feature(
    of_row: bool, study: Study, table_data: dict[str, Any]
) -> None:
    none = {"motion_dim": 0}
    row = {"row": "han", "method": "HAN", "model": "han", "options": none if of_row else {}}
    row["features"] = {"audio": "vggish", "visual": "vgg16_map", "motion": "motion"}
    chosen = study if of_row else study.model_copy(update={"models": {"han": none}})
    for experiment in parse_table(table_data | {"rows": [row]}, "small", chosen).experiments(chosen).values():
        assert experiment.features == {"audio": "vggish", "visual": "vgg16_map"}
        assert experiment.options == none
    with pytest.raises(ConfigError, match=r"features.motion: .*`imported`.*`motion_dim: 0`"):
        parse_table(table_data | {"rows": [row | {"options": {}}]}, "small", study)


CLIP = {"path": "clip", "format": "npy", "shape": [10, 768]}


def test_a_row_that_needs_a_map_is_a_gap_where_the_feature_is_a_vector(
    study: Study, table_data: dict[str, Any]
) -> None:
    data = study.model_dump() | {"imported": {"clip": CLIP}}
    table_data["defaults"]["features"]["visual"] = "clip"
    table_data["rows"].append({"row": "avin", "method": "AVIN", "model": "avin"})
    vectors = Study.model_validate(data)
    spec = parse_table(table_data, "small", vectors)
    gap = spec.rows[0].gap or ""
    assert gap.startswith("avel attends to the cells of a map, and clip has none")
    assert "set attention: false under avel@clip in the study's models" in gap
    assert spec.rows[0].published == table_data["rows"][0]["published"]
    assert set(spec.experiments(vectors)) == {("avin", "supervised"), ("avin", "weakly-supervised")}
    assert (
        parse_table(spec.model_dump(mode="json"), "small", vectors) == spec
    )  # as the workflow passes it to the job
    without = Study.model_validate(data | {"models": {"avel@clip": {"attention": False}}})
    assert ("avel", "supervised") in parse_table(table_data, "small", without).experiments(without)


def test_each_repeats_every_row_for_each_backbone_of_the_study(
    study: Study, table_data: dict[str, Any]
) -> None:
    several = study.model_copy(
        update={"backbones": {"vgg16_map": ("supervised", "weakly-supervised"), "vggish": ("supervised",)}}
    )
    spec = parse_table(table_data | {"each": "visual", "rows": table_data["rows"][:1]}, "grid", several)
    assert [row.row for row in spec.rows] == ["avel-vgg16_map", "avel-vggish"]
    assert [row.remark for row in spec.rows] == ["vgg16", "vggish, without attention"]
    assert [row.options for row in spec.rows] == [{}, {"attention": False}]  # vectors have no cells
    features = [spec.experiments(several)[row.row, "supervised"].features for row in spec.rows]
    assert features == [{"audio": "vggish", "visual": "vgg16_map"}, {"audio": "vggish", "visual": "vggish"}]
    assert [row.settings for row in spec.rows] == [("supervised", "weakly-supervised"), ("supervised",)]
    again = parse_table(spec.model_dump(mode="json"), "grid", several)  # as the workflow passes it to the job
    assert again == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbones": {}}, "names no `backbones` to compare"),
        ({"backbones": {"vgg_map": ("supervised",)}}, "no extractor 'vgg_map' in `extractors` or `imported`; did you mean 'vgg16_map'"),
    ],
)  # fmt: skip
def test_mistakes_of_the_study_are_named(
    changes: dict[str, Any], message: str, study: Study, table_data: dict[str, Any]
) -> None:
    data = table_data | {"each": "visual", "rows": table_data["rows"][:1]}
    with pytest.raises(ConfigError, match=message):
        parse_table(data, "grid", study.model_copy(update=changes))


def with_pretraining(table_data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The table with one row, which starts from AVG."""
    row = {"row": "parser", "method": "Parser", "model": "avg_parser", "settings": ["weakly-supervised"]}
    metrics = {"segment_type": "Type"}
    return table_data | {
        "task": "parsing",
        "metrics": metrics,
        "rows": [row | {"pretraining": AVG | changes}],
    }


def test_a_row_may_start_from_another_experiment(study: Study, table_data: dict[str, Any]) -> None:
    (experiment,) = parse_table(with_pretraining(table_data), "small", study).experiments(study).values()
    before = experiment.pretraining
    assert before is not None
    assert (before.task, before.model, before.setting) == ("pretraining", "avg", "self-supervised")
    assert before.options == {"objective": "uni"}
    assert before.features == experiment.features
    assert before.recipe == experiment.recipe


def test_pretraining_has_features_recipe_and_the_studys_options_of_its_own(
    study: Study, table_data: dict[str, Any]
) -> None:
    smaller = study.model_copy(update={"models": {"avg": {"layers": 2, "objective": "cross"}}})
    data = with_pretraining(table_data, features={"audio": "vggish"}, recipe="short")
    spec = parse_table(data, "small", smaller)
    (experiment,) = spec.experiments(smaller).values()
    assert experiment.pretraining is not None
    assert experiment.pretraining.features == {"audio": "vggish"}
    assert experiment.pretraining.recipe.epochs == 7
    assert experiment.pretraining.options == {"layers": 2, "objective": "uni"}
    assert experiment.recipe == study.training
    assert spec.recipe_names() == {"short"}


def test_a_pretraining_may_start_from_another_one(study: Study, table_data: dict[str, Any]) -> None:
    first = AVG | {"options": {"objective": "cross"}, "recipe": "short"}
    spec = parse_table(with_pretraining(table_data, pretraining=first), "small", study)
    (experiment,) = spec.experiments(study).values()
    last, second, third = experiment.chain
    assert (last, last.pretraining) == (experiment, second)
    assert [e.options for e in (second, third)] == [{"objective": "uni"}, {"objective": "cross"}]
    assert [e.recipe.epochs for e in (second, third)] == [study.training.epochs, 7]
    assert spec.recipe_names() == {"short"}
    wrong = with_pretraining(table_data, pretraining=AVG | {"model": "avgg"})
    with pytest.raises(ConfigError, match=r"pretraining\.pretraining\.model: .*did you mean 'avg'"):
        parse_table(wrong, "small", study)


def test_a_row_on_clips_reads_the_preset_of_the_media_unless_it_names_another(study: Study) -> None:
    row = {"row": "a", "method": "A", "model": "multisensory"}
    data = {
        "title": "Alignment", "task": "alignment", "metrics": {"accuracy": "Accuracy"}, "settings": ["self-supervised"],
        "rows": [row, row | {"row": "b", "preset": "multisensory"}],
    }  # fmt: skip
    own, named = parse_table(data, "small", study).experiments(study).values()
    assert own.preset == study.media.preset
    assert named.preset == PRESETS["multisensory"]
    assert not own.features


def test_pretraining_of_another_dataset_may_have_features_that_this_study_does_not(
    study: Study, table_data: dict[str, Any]
) -> None:
    data = with_pretraining(table_data, dataset="audioset", features={"audio": "other"})
    (experiment,) = parse_table(data, "small", study).experiments(study).values()
    assert experiment.pretrained_on == "audioset"
    assert experiment.pretraining is not None
    assert experiment.pretraining.features == {"audio": "other"}
