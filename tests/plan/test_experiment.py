"""An experiment's name follows from what it is, and from what it starts from."""

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from avpipe.plan.experiment import Experiment, check_experiment
from avpipe.plan.recipe import Recipe
from avpipe.plan.section import ConfigError


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "task": "parsing",
            "model": "han",
            "features": {"audio": "vggish"},
            "setting": "weakly-supervised",
            "recipe": Recipe().model_dump(),
            **changes,
        }
    )


def pretraining(**options: Any) -> Experiment:
    return experiment(task="pretraining", model="avg", setting="self-supervised", options=options)


def test_without_pretraining_the_name_is_the_digest_of_six_keys():
    keys = {"task", "model", "options", "features", "setting", "recipe"}
    written = json.loads(experiment().to_json())
    assert set(written) == keys
    digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()[:8]
    assert experiment().id == f"han-weakly-supervised-{digest}"


def test_the_name_of_an_experiment_is_the_one_it_had_before_later_keys_of_the_recipe():
    """1549ee24 is what the digest was then."""
    assert experiment().id == "han-weakly-supervised-1549ee24"
    later = experiment(recipe={"accumulate": 1, "eps": 1e-8, "clip_target": "weak"})
    assert later.id == experiment().id
    for key, value in {"accumulate": 2, "eps": 1e-7, "clip_target": "audio"}.items():
        changed = experiment(recipe={key: value})
        assert changed.id != later.id
        assert Experiment.model_validate_json(changed.to_json()) == changed


def test_the_name_depends_on_the_pretraining():
    uni, cross = (experiment(pretraining=pretraining(objective=o)) for o in ("uni", "cross"))
    assert len({experiment().id, uni.id, cross.id}) == 3
    assert uni.chain == (uni, pretraining(objective="uni"))
    assert uni.pretraining is not None
    assert uni.pretraining.id.startswith("avg-self-supervised-")


def test_the_name_depends_on_the_dataset_of_the_pretraining():
    here = experiment(pretraining=pretraining())
    elsewhere = experiment(pretraining=pretraining(), pretrained_on="audioset")
    assert here.id != elsewhere.id
    assert elsewhere.chain == (elsewhere,)


def test_an_experiment_is_read_back_from_its_file(tmp_path):
    path = tmp_path / "experiment.json"
    small = experiment(options={"theta": 1e-05})
    for one in (small, experiment(pretraining=pretraining(layers=2), pretrained_on="audioset")):
        path.write_text(one.to_json())
        assert Experiment.read(path) == one
        assert len(path.read_text().splitlines()) > 30, "a key a line, for people"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"batch_size"', '"batchsize"', "recipe.batchsize: no such key; did you mean 'batch_size'"),
        ('"parsing"', "parsing", "Invalid JSON"),
    ],
)
def test_a_mistake_in_an_experiments_file_is_named(tmp_path, old, new, message):
    path = tmp_path / "experiment.json"
    path.write_text(experiment().to_json().replace(old, new, 1))
    with pytest.raises(ConfigError, match=f"(?s){path} is no experiment.*{message}"):
        Experiment.read(path)


def test_a_mistake_in_the_pretraining_is_named():
    wrong = pretraining().model_dump() | {"modle": "avg"}
    with pytest.raises(ValidationError, match=r"pretraining\.modle"):
        experiment(pretraining=wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"setting": "supervised"},
            "settings: the task parsing is weakly-supervised, not supervised",
        ),
        ({"task": "cross_modality"}, "settings: .* supervised, not weakly-supervised"),
        ({"task": "pretraining"}, "settings: .* self-supervised, not weakly-supervised"),
        ({"task": "localization", "setting": "self-supervised"}, "supervised or weakly-supervised, not"),
        (
            {"recipe": {"refine_epochs": "same"}},
            "recipe.refine_epochs: found 'same' for the task parsing",
        ),
        (
            {"task": "refined_parsing"},
            "recipe.refine_epochs: found 0 for the task refined_parsing; .* 1 epoch",
        ),
        (
            {"recipe": {"loss_weights": {"audoi": 0.5}}},
            "recipe.loss_weights: .*'audoi'; did you mean 'audio'",
        ),
        ({"task": "parsin"}, "unknown task 'parsin'; did you mean 'parsing'"),
    ],
    ids=str,
)
def test_what_a_task_cannot_train_is_named_before_any_training(changes, message):
    with pytest.raises(ValueError, match=message):
        check_experiment(experiment(**changes))


def test_what_a_task_can_train_passes():
    check_experiment(experiment(recipe={"loss_weights": {"audio": 0.5}}))
    check_experiment(experiment(task="refined_parsing", recipe={"refine_epochs": 2}))
    # a term of another model's loss, where no term is weighed
    check_experiment(experiment(task="localization", model="avel", recipe={"loss_weights": {"audio": 0.5}}))
