"""A study's file: defaults, mistakes by their key, and the order in which recipes are merged."""

from pathlib import Path

import pytest
import yaml

from avpipe.media.presets import LARGE
from avpipe.plan.recipe import Recipe
from avpipe.plan.section import ConfigError
from avpipe.plan.study import resolve, validate_study

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = {"dataset": {"name": "d", "kind": "demo"}}


def wrong(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        validate_study({**MINIMAL, **changes})
    return str(caught.value)


def test_a_minimal_study_gets_the_defaults():
    study = validate_study(MINIMAL)
    assert (study.shard_size, study.seeds, study.training) == (256, (0, 1, 2), Recipe())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_sise": 3}, "shard_sise: no such key; did you mean 'shard_size'"),
        ({"training": {"epocs": 3}}, "training.epocs: no such key"),
        ({"training": {"lr": -1}}, "training.lr: "),
        (
            {"extractors": {"a": {"backbone": "vggish", "poling": "map"}}},
            "extractors.a.poling: no such key; did you mean 'pooling'?",
        ),
        ({"extractors": {"a/b": {"backbone": "vggish"}}}, "extractor name 'a/b'"),
        (
            {"bundles": [["vggsh"]], "extractors": {"vggish": {"backbone": "vggish"}}},
            "no extractor 'vggsh'; did you mean 'vggish'?",
        ),
        ({"bundles": [["a", "a"]], "extractors": {"a": {"backbone": "vggish"}}}, "stands in two bundles"),
        ({"features": ["a"]}, "features: no extractor 'a' in `extractors` or `imported`"),
        ({"models": {"avel@a": {}}}, "models.avel@a: no extractor 'a'"),
        (
            {"imported": {"a": {"path": "x", "format": "h5", "shape": [10]}}},
            "imported.a.shape: 2 to 5 numbers, each 1 or more",
        ),
        ({"imported": {"a": {"path": "x", "format": "npz", "shape": [1, 1]}}}, "imported.a.format"),
        (
            {
                "imported": {"a": {"path": "x", "format": "h5", "shape": [10, 128]}},
                "extractors": {"a": {"backbone": "vggish"}},
            },
            "'a' is both extracted and imported",
        ),
        ({"seeds": [1, 1]}, "seeds: "),
        ({"recipes": {"paper": {"lr": 0}}}, "recipes.paper: "),
        ({"dataset": {"name": "../x", "kind": "demo"}}, "dataset.name"),
        ({"dataset": {"name": "x"}}, "dataset.kind: is missing"),
    ],
)
def test_a_mistake_is_named_with_its_key(changes, message):
    assert message in wrong(**changes)


def test_every_mistake_is_reported_at_once():
    message = wrong(shard_sise=3, training={"epocs": 1})
    assert "shard_sise" in message
    assert "training.epocs" in message


@pytest.mark.parametrize(
    "path",
    [ROOT / "config.yaml", *sorted((ROOT / "workflow" / "configs").glob("*.yaml"))],
    ids=lambda p: p.name,
)
def test_the_studies_that_come_with_avpipe_are_valid(path):
    validate_study(yaml.safe_load(path.read_text()), path.name)


def test_recipes_are_changed_by_a_named_recipe_then_by_a_row():
    study = validate_study({**MINIMAL, "training": {"epochs": 7}, "recipes": {"paper": {"lr": 0.5}}})
    recipe = study.recipe("localization", "avel", "paper", {"batch_size": 3})
    assert (recipe.epochs, recipe.lr, recipe.batch_size) == (7, 0.5, 3)
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        study.recipe("localization", "avel", "papr")


def test_recipes_are_changed_by_task_then_model_then_row():
    changes = {"han": {"epochs": 5}, "parsing": {"lr": 0.5, "epochs": 9}}
    study = validate_study({**MINIMAL, "training_of": changes, "recipes": {"paper": {"lr": 0.1}}})
    assert study.recipe("localization", "avel", None) == study.training
    assert (study.recipe("parsing", "ma", None).lr, study.recipe("parsing", "ma", "paper").lr) == (0.5, 0.1)
    of_model = study.recipe("parsing", "han", None)
    assert (of_model.lr, of_model.epochs) == (0.5, 5), "the model's changes come after the task's"
    assert study.recipe("parsing", "han", "paper", {"epochs": 3}).epochs == 3
    with pytest.raises(ConfigError, match=r"training_of\.parsing"):
        validate_study({**MINIMAL, "training_of": {"parsing": {"lrr": 0.5}}})


@pytest.mark.parametrize("spelled", ["A", "A/", "./A", "~/A", "{absolute}"])
def test_the_folder_shorthand_gives_the_same_dataset_however_it_is_spelled(spelled, tmp_path, monkeypatch):
    (tmp_path / "A").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = spelled.format(absolute=tmp_path / "A")
    study = resolve(validate_study({"dataset": {"name": "f", "kind": "folder"}, "folder": folder}))
    assert study.folder == str(tmp_path / "A")
    assert study.dataset.annotations == "results/f/source"
    assert [source.path for source in study.dataset.sources] == ["results/f/source"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dataset": {"name": "f", "kind": "folder"}}, "needs --config folder=DIR"),
        ({"dataset": {"name": "f", "kind": "folder"}, "folder": "/nowhere"}, "/nowhere is not a folder"),
        (
            {"dataset": {"name": "f", "kind": "folder"}, "folder": "~no-such-user/x"},
            "folder: ~no-such-user/x",
        ),
        (
            {"dataset": {"name": "f", "kind": "folder"}, "folder": 2024},
            r"read as int, not as text: put \./ before it",
        ),
        ({**MINIMAL, "folder": "/tmp"}, "workflow/configs/folder.yaml"),
    ],
)
def test_a_wrong_folder_is_refused_with_advice(config, message):
    with pytest.raises(ConfigError, match=message):
        resolve(validate_study(config))


def test_the_weights_shorthand_reaches_every_extractor():
    extractors = {"a": {"backbone": "vggish"}, "b": {"backbone": "resnet18", "weights": "random"}}
    study = resolve(validate_study({**MINIMAL, "extractors": extractors, "weights": "random"}))
    assert {e.weights for e in study.extractors.values()} == {"random"}


HD = {
    "seconds": 10, "fps": 25, "width": 320, "height": 320, "aspect": "keep", "sample_rate": 44_100, "channels": 2,
}  # fmt: skip


def test_an_extractor_reads_the_preset_that_it_names_else_that_of_the_media():
    look = {"backbone": "resnet18", "fps": 5}
    study = validate_study(
        {
            "dataset": {"name": "a", "kind": "folder"},
            "presets": {"hd": HD},
            "media": {"preset": "large"},
            "extractors": {"own": {**look, "preset": "hd"}, "usual": {"backbone": "vggish"}},
        }
    )
    assert study.extractors["own"].preset.name == "hd"
    assert study.extractors["own"].preset.fps == 25
    assert study.extractors["usual"].preset == study.media.preset == LARGE
    assert validate_study(study.model_dump(mode="json")) == study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"presets": {"canonical": HD}}, "every study has 'canonical'"),
        (
            {"extractors": {"a": {"backbone": "vggish", "preset": "hdd"}}},
            "extractors.a.preset: no preset 'hdd'",
        ),
        (
            {
                "extractors": {"a": {"backbone": "vggish"}, "b": {"backbone": "resnet18", "preset": "large"}},
                "bundles": [["a", "b"]],
            },
            "several presets",
        ),
    ],
)
def test_wrong_presets_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        validate_study({"dataset": {"name": "a", "kind": "folder"}, **changes})


def test_random_weights_are_also_those_that_trained_networks_start_from():
    experiments = {"a": {"task": "barlow_twins", "model": "avbt", "preset": "canonical"}}
    study = resolve(validate_study({**MINIMAL, "experiments": experiments, "weights": "random"}))
    assert study.trained("a").options == {"weights": "random"}
