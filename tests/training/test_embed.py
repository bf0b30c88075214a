"""What is kept of a trained model's features is what it makes of the test split's clips."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from avpipe.models import load_model
from avpipe.plan.experiment import Experiment
from avpipe.training.data import open_data
from avpipe.training.embed import embed_run
from avpipe.training.loop import train_experiment

from .conftest import Study


def embedded(experiment: Experiment, study: Study) -> dict[str, np.ndarray]:
    embed_run(experiment, study.results, 0, "cpu", threads=1)
    path = study.results / "runs" / experiment.id / "seed0" / "embeddings.npz"
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_every_test_clip_has_the_features_of_the_checkpoints_model(
    study: Study, describe: Callable[..., Experiment]
) -> None:
    experiment = describe("tacma")
    train_experiment(experiment, study.results, [0], "cpu", threads=1)
    found = embedded(experiment, study)
    folder = study.results / "runs" / experiment.id / "seed0"
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert found.pop("clips").tolist() == predictions["clip"].drop_duplicates().tolist()
    data, reader = open_data(experiment.features, study.results, torch.device("cpu"))
    test = data.splits["test"]
    model = load_model(folder / "checkpoint.pt")
    with torch.inference_mode():
        (batch,) = reader.batches([torch.arange(test.start, test.start + len(test))])
        expected = model(batch).embeddings
        again = model.classifier(torch.from_numpy(found["fused"])).argmax(-1)
    assert found.keys() == expected.keys()
    for name, embedding in expected.items():
        np.testing.assert_array_equal(found[name], embedding)
    assert again.flatten().tolist() == predictions["prediction"].tolist()


def test_the_file_is_the_same_every_time(study: Study, describe: Callable[..., Experiment]) -> None:
    experiment = describe("avel")
    train_experiment(experiment, study.results, [0], "cpu", threads=1)
    path = study.results / "runs" / experiment.id / "seed0" / "embeddings.npz"
    embedded(experiment, study)
    first = path.read_bytes()
    embedded(experiment, study)
    assert path.read_bytes() == first


def test_a_failed_run_has_no_features(
    make_study: Callable[..., Study], describe: Callable[..., Experiment]
) -> None:
    study = make_study(splits=(("train", 16), ("val", 8)))
    experiment = describe("tacma")
    train_experiment(experiment, study.results, [0], "cpu", threads=1)
    metrics = study.results / "runs" / experiment.id / "seed0" / "metrics.json"
    assert json.loads(metrics.read_text())["status"] == "failed"
    found = embedded(experiment, study)
    assert (list(found), len(found["clips"])) == (["clips"], 0)


def test_a_model_that_shows_no_features_is_named(study: Study, describe: Callable[..., Experiment]) -> None:
    experiment = describe("jcan", epochs=1)
    train_experiment(experiment, study.results, [0], "cpu", threads=1)
    with pytest.raises(ValueError, match="the model jcan shows no embeddings"):
        embed_run(experiment, study.results, 0, "cpu")


def test_a_run_that_is_not_there_is_named(study: Study, describe: Callable[..., Experiment]) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        embed_run(describe("tacma", epochs=77), study.results, 0, "cpu")
