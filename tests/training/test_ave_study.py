"""AVE's study: every model learns the toy study, every experiment trains a step on features of the real shapes."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from avpipe.models import model_card
from avpipe.plan.experiment import Experiment, Setting
from avpipe.plan.extractor import LearnedConfig
from avpipe.plan.plan import Plan
from avpipe.plan.recipe import Recipe
from avpipe.plan.study import Study as StudyConfig
from avpipe.plan.study import resolve, validate_study
from avpipe.tables.spec import load_table

from .conftest import Study, read, run, write_features, write_study

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflow"


def read_study(path: Path) -> StudyConfig:
    """A study as the Snakefile reads it."""
    return resolve(validate_study(yaml.safe_load(path.read_text(encoding="utf-8")), str(path)))


# Learning

GRID = load_table(WORKFLOW / "tables" / "ave_grid.yaml").experiments(read_study(ROOT / "config.yaml"))
"""(row, setting) -> experiment, with the demo's small models."""


@pytest.fixture(scope="session")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Events that fill most of their clip, as AVE's do, so that background everywhere is a poor prediction."""
    results = tmp_path_factory.mktemp("lasting") / "results" / "toy"
    return write_study(results, splits=[("train", 64), ("val", 16), ("test", 32)], lengths=(7, 11))


def learn(row: str, setting: Setting, study: Study) -> tuple[float, pd.DataFrame]:
    """Accuracy and predictions of a row's model after 8 epochs with its paper's loss."""
    recipe = Recipe(epochs=8, batch_size=16, lr=5e-3)
    changes = {"features": {"audio": "ears", "visual": "eyes"}, "recipe": recipe}
    experiment = GRID[row, setting].model_copy(update=changes)
    (metrics,) = run(experiment, study.results)
    return metrics["metrics"]["validation"]["accuracy"], read(experiment, study.results)[
        "predictions.parquet"
    ]


def background_everywhere(study: Study) -> float:
    """The accuracy of background in every test segment."""
    return float((study.split("test") == 3).mean())


ROWS = list(dict.fromkeys(row for row, _ in GRID))


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_model_of_the_grid_learns_which_segments_are_of_which_category(lasting, row):
    accuracy, _ = learn(row, "supervised", lasting)
    assert accuracy > 0.95 > background_everywhere(lasting) + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_model_of_the_grid_learns_the_category_of_events_from_clip_labels_alone(lasting, row):
    """Onsets are not tested: a model may predict the clip's category in every segment."""
    accuracy, table = learn(row, "weakly-supervised", lasting)
    floor = background_everywhere(lasting)
    events = table[table["truth"] != 3]
    assert accuracy > floor + (1 - floor) / 2  # half of what background everywhere gets wrong
    assert (events["truth"] == events["prediction"]).mean() > 0.9  # one category in three by chance


# Full size

CLIPS = (("train", 12), ("val", 4), ("test", 4))
SHAPES = {
    "vggish": ((128,), np.float32),
    "visual_map": ((7, 7, 512), np.float16),
    "vgg16_map": ((7, 7, 512), np.float16),
    "resnet152_map": ((7, 7, 2048), np.float16),
}
"""Extractor -> shape of a segment's features, and how they are stored."""
PLAN = Plan(read_study(WORKFLOW / "configs" / "ave.yaml"), WORKFLOW)
LEARNED = [name for name in PLAN.features if isinstance(PLAN.arrays[name], LearnedConfig)]
ON_FEATURES = [experiment for experiment in PLAN.experiments.values() if experiment.features]


@pytest.fixture(scope="session")
def ave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of 28 categories with random features of the real shapes, none negative, as after a ReLU."""
    results = tmp_path_factory.mktemp("ave") / "results" / "ave"
    categories = [f"Category {index}" for index in range(28)]
    study = write_study(results, splits=CLIPS, categories=categories, lengths=(4, 11))
    random = np.random.default_rng(0)
    learned = {name: ((PLAN.arrays[name].width,), np.float32) for name in LEARNED}
    for name, (shape, dtype) in {**SHAPES, **learned}.items():
        values = random.standard_normal((len(study.clips), 10, *shape), dtype=np.float32)
        write_features(results, name, np.maximum(values, 0).astype(dtype))
    return results


STATED = {"avel": 1_335_246, "avel dmrn": 1_571_150, "jcan": 22_776_510}
"""Parameters of the released code for maps of VGG, in both settings."""


def stated_parameters(experiment: Experiment) -> int | None:
    """`STATED`, else the model card's number; None if the card is about another form of the model or other maps."""
    features, options = experiment.features, experiment.options
    if "audio" not in features or features.get("visual") not in ("visual_map", "vgg16_map"):
        return None
    name = f"{experiment.model} dmrn" if options == {"fusion": "dmrn"} else experiment.model
    if options and name == experiment.model:
        return None
    of_card = model_card(experiment.model).parameters if experiment.setting == "supervised" else None
    return STATED.get(name, of_card)


def test_aves_study_has_features_of_these_shapes_and_no_unused_recipe():
    assert set(PLAN.features) == {*SHAPES, *LEARNED}
    used = set().union(*(table.recipe_names() for table in PLAN.tables.values()))
    used |= {asked.recipe for asked in PLAN.study.experiments.values() if isinstance(asked.recipe, str)}
    assert set(PLAN.study.recipes) == used


@pytest.mark.full_size
@pytest.mark.parametrize("asked", ON_FEATURES, ids=lambda experiment: experiment.id)
def test_every_experiment_of_aves_study_trains_a_step_on_features_of_the_real_shapes(ave, asked):
    """By its own recipe except `epochs` and `batch_size`: 12 clips make a batch of 8 and, unless dropped, one of 4."""
    size = min(asked.recipe.batch_size, 8)
    recipe = asked.recipe.model_copy(update={"epochs": 1, "batch_size": size})
    experiment = asked.model_copy(update={"recipe": recipe})
    (metrics,) = run(experiment, ave)
    shutil.rmtree(ave / "runs" / experiment.id)  # JCAN's weights are 91 MB
    assert (metrics["status"], metrics["reason"]) == ("ok", None)
    assert 0 <= metrics["metrics"][recipe.protocol]["accuracy"] <= 1  # false for NaN, too
    stated = stated_parameters(experiment)
    assert stated is None or metrics["parameters"] == stated
