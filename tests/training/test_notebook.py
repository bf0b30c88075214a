"""What `import avpipe` gives a notebook: a study's tables, datasets, trainings and scores."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

import avpipe
from avpipe.models.base import LocalizationBatch, SegmentOutput
from avpipe.notebook import OpenStudy
from avpipe.plan.section import ConfigError
from avpipe.plan.study import validate_study
from avpipe.tables.aggregate import write_table
from avpipe.tables.spec import parse_table

from .conftest import Study, read, run, write_study

ROOT = Path(__file__).resolve().parents[2]
FEATURES = {"audio": "ears", "visual": "eyes"}
QUICK = {
    "dataset": {"name": "quick", "kind": "ave"},
    "extractors": {"vggish": {"backbone": "vggish"}, "visual_map": {"backbone": "vgg16", "pooling": "map"}},
    "seeds": [0, 1],
    "training": {"epochs": 2, "batch_size": 16},
    "models": {"avin": {"hidden_dim": 8, "fusion_dim": 8}},
}
TABLE = {
    "title": "Fusion",
    "task": "localization",
    "metrics": {"accuracy": "Acc."},
    "defaults": {"features": {"audio": "vggish", "visual": "visual_map"}},
    "rows": [
        {"row": "avin", "method": "AVIN", "model": "avin"},
        {
            "row": "sum",
            "method": "Sum",
            "model": "avin",
            "options": {"fusion": "addition"},
            "settings": ["supervised"],
        },
    ],
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with results/quick: features as the quick study names them, three experiments, a table."""
    root = tmp_path_factory.mktemp("quick")
    results = root / "results" / "quick"
    write_study(results)
    for name, new in (("ears", "vggish"), ("eyes", "visual_map")):
        (results / "features" / f"{name}.zarr").rename(results / "features" / f"{new}.zarr")
    study = validate_study(QUICK)
    spec = parse_table(TABLE, "avin_fusion", study)
    for experiment in spec.experiments(study).values():
        run(experiment, results, (0, 1))
    write_table("avin_fusion", spec, study, results)
    (root / "study.yaml").write_text(yaml.safe_dump(QUICK))
    return root


@pytest.fixture
def toy(study: Study) -> OpenStudy:
    return avpipe.open_study(study.results, device="cpu")


def test_importing_avpipe_loads_no_library_until_a_name_is_used() -> None:
    code = (
        "import sys, avpipe; heavy = {'torch', 'numpy', 'pandas', 'pydantic'}; assert not heavy & set(sys.modules);"
        "assert set(avpipe.__all__) <= set(dir(avpipe)); avpipe.list_models(); assert 'torch' not in sys.modules;"
        "assert all(callable(getattr(avpipe, name)) for name in avpipe.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    with pytest.raises(AttributeError, match="no attribute 'open_stdy'"):
        avpipe.open_stdy  # noqa: B018


def test_a_dataset_has_the_features_and_labels_of_its_split(study: Study, toy: OpenStudy) -> None:
    for split in ("train", "val", "test"):
        clips = toy.dataset(split, **FEATURES)
        labels = torch.stack([clips[i].target for i in range(len(clips))]).argmax(dim=-1)
        assert labels.tolist() == study.split(split).tolist()
        assert clips.truth()["truth"].tolist() == study.split(split).ravel().tolist()
    item = clips[-1]
    assert (tuple(item.audio.shape), tuple(item.visual.shape)) == ((10, 6), (10, 2, 2, 8))
    weak = toy.dataset("train", setting="weakly-supervised", audio="ears")
    assert (tuple(weak[0].target.shape), weak[0].visual) == ((4,), None)


def test_training_by_name_gives_the_numbers_of_the_workflows_run(
    study: Study, toy: OpenStudy, describe
) -> None:
    experiment = describe("avin", epochs=4)
    (metrics,) = run(experiment, study.results, (5,))
    expected = read(experiment, study.results, 5)
    trained = avpipe.train(
        "avin",
        toy.dataset("train", **FEATURES),
        options=experiment.options,
        seed=5,
        epochs=4,
        batch_size=16,
        lr=1e-2,
    )
    assert trained.metrics == metrics["metrics"]["validation"]
    assert trained.epoch == metrics["epochs"]["validation"]
    pd.testing.assert_frame_equal(trained.predictions, expected["predictions.parquet"], check_exact=True)
    assert trained.history["loss"].tolist() == [float(row["loss"]) for row in expected["log.csv"]]


class Linear(nn.Module):
    """A classifier of each segment's audio."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(6, 4)

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        return SegmentOutput(segment_logits=self.classifier(batch.audio))


def test_a_module_is_trained_as_a_copy_which_predicts_as_its_metrics_say(toy: OpenStudy) -> None:
    network, clips = Linear(), toy.dataset("train", audio="ears")
    before = network.classifier.weight.clone()
    trained = avpipe.train(network, clips, epochs=20, batch_size=16, lr=0.05)
    assert trained.metrics["accuracy"] > 0.9, "the toy's categories are far apart"
    assert torch.equal(network.classifier.weight, before)
    test = toy.dataset("test", audio="ears")
    batch = test.__getitems__(range(len(test)))
    found = trained.model(batch.unlabelled()).segment_logits.argmax(dim=-1)
    assert (found == batch.target.argmax(dim=-1)).float().mean().item() == pytest.approx(
        trained.metrics["accuracy"]
    )


@pytest.mark.parametrize(
    ("task", "model", "recipe"),
    [
        ("localization", "avin", {"weak_labels": "durations"}),
        ("parsing", "han", {}),
        ("refined_parsing", "ma", {"refine_epochs": 1}),
        ("cross_modality", "dam_matching", {}),
    ],
)
def test_the_score_of_a_models_predictions_is_its_metrics(
    toy: OpenStudy, task: str, model: str, recipe
) -> None:
    setting = "weakly-supervised" if task == "localization" else None
    clips = toy.dataset("train", task, setting=setting, **FEATURES)
    trained = avpipe.train(model, clips, options={"hidden_dim": 8}, epochs=2, batch_size=16, **recipe)
    metrics = {name: value for name, value in trained.metrics.items() if name != "chance"}
    answers = trained.predictions.sample(frac=1, random_state=0).drop(
        columns=["truth", "onset"], errors="ignore"
    )
    for truth in (toy.dataset("test", task, **FEATURES), toy.truth("test", task)):
        assert avpipe.score(task, truth, answers) == pytest.approx(metrics)
    assert avpipe.score(task, toy.truth("test", task), trained.predictions) == pytest.approx(metrics)


def test_predictions_that_do_not_fit_the_truth_are_refused(toy: OpenStudy) -> None:
    truth = toy.truth("test")
    good = truth.rename(columns={"truth": "prediction"})
    assert avpipe.score("localization", truth, good) == {"accuracy": 1.0}
    names = list(dict.fromkeys(truth["clip"]))
    for wrong, message in (
        (
            good[~good["clip"].isin(names[:2])],
            f"2 of 16 clips have no prediction, or not all: {names[0]}, {names[1]}$",
        ),
        (good[1:], f"1 of 16 clips .*: {names[0]}$"),
        (pd.concat([good, good[:1]]), f"two rows for clip {names[0]}, segment 0"),
        (good.assign(segment=good["segment"] + 1), "segment 10; the truth has 0, 1, "),
        (good.assign(prediction="Bark"), "index of a category"),
        (good.drop(columns="segment"), "predictions: no column segment"),
    ):
        with pytest.raises(ValueError, match=message):
            avpipe.score("localization", truth, wrong)
    parsing = toy.truth("test", "parsing").rename(columns={"truth": "prediction"})
    lacks = parsing[parsing["clip"] != names[0]]
    with pytest.raises(ValueError, match=f"no prediction, or not all: {names[0]}$"):
        avpipe.score("parsing", toy.truth("test", "parsing"), lacks)
    with pytest.raises(ValueError, match="category 'Brak'; the truth has Bark, Bell, Horn"):
        avpipe.score("parsing", toy.truth("test", "parsing"), parsing.replace("Bark", "Brak"))
    with pytest.raises(ValueError, match="no scores of predictions for the task 'pretraining'"):
        avpipe.score("pretraining", truth, good)


def test_runs_and_predictions_are_found_by_table_row_and_experiment(quick: Path) -> None:
    study = avpipe.open_study(quick / "study.yaml")
    runs = study.runs()
    assert runs.groupby(["table", "row", "setting"]).size().to_dict() == {
        ("avin_fusion", "avin", "supervised"): 2,
        ("avin_fusion", "avin", "weakly-supervised"): 2,
        ("avin_fusion", "sum", "supervised"): 2,
    }
    one = runs[(runs["row"] == "sum") & (runs["seed"] == 1)].iloc[0]
    expected = pd.read_parquet(Path(one["folder"]) / "predictions.parquet")
    assert (expected["truth"] == expected["prediction"]).mean() == pytest.approx(one["accuracy"])
    for name in ("sum", "avin_fusion/sum", one["experiment"]):
        pd.testing.assert_frame_equal(study.predictions(name, seed=1), expected)
    for wrong, message in (
        ({"of": "smu"}, "did you mean 'sum'"),
        ({"of": "sum", "seed": 2}, "no run of seed 2; known: 0, 1"),
        ({"of": "sum", "setting": "weakly-supervised"}, "known: supervised"),
        ({"of": "avin"}, "names 2 experiments, avin-"),
    ):
        with pytest.raises(ValueError, match=message):
            study.predictions(**wrong)


def test_wrong_names_get_one_line_with_the_nearest_known(toy: OpenStudy, tmp_path: Path) -> None:
    for wrong, message in (
        ({"split": "tset"}, "unknown split 'tset'; did you mean 'test'"),
        ({"task": "localisation"}, "did you mean 'localization'"),
        ({"audio": "earz"}, "no feature 'earz'; did you mean 'ears'"),
        ({"setting": "supervized"}, "did you mean 'supervised'"),
    ):
        with pytest.raises(ValueError, match=message):
            toy.dataset(**{"split": "train", "audio": "ears", **wrong})
    with pytest.raises(FileNotFoundError, match="name a results folder"):
        avpipe.open_study(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="run the study first"):
        avpipe.open_study(tmp_path)
    clips = toy.dataset("train", audio="ears")
    for model, given, error, message in (
        ("avell", {}, ValueError, "did you mean 'avel'"),
        ("avel", {"options": {"hidden": 3}}, ValueError, "no option 'hidden'"),
        ("avel", {"epoch": 3}, ConfigError, "epoch: no such key; did you mean 'epochs'"),
        ("avel", {"gate": "modality"}, ConfigError, "changes nothing in the task localization"),
        (Linear(), {"options": {"a": 1}}, ValueError, "given by its name"),
    ):
        with pytest.raises(error, match=message):
            avpipe.train(model, clips, **given)
    with pytest.raises(ValueError, match="split val"):
        avpipe.train("avel", toy.dataset("val", audio="ears"))


@pytest.mark.slow
def test_the_notebook_runs_as_it_stands(quick: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, str(ROOT / "docs" / "notebook.py")]
    done = subprocess.run(command, cwd=quick, env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (quick / "results/quick/notebook.png").is_file()
    assert "accuracy" in done.stdout
    assert len(pd.read_parquet(quick / "results/quick/nearest.parquet")) == 16 * 10
