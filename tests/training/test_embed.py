"""Saved embeddings are those that the checkpoint's model gives for the test split."""

import numpy as np
import pytest
import torch

from avpipe.models import load_model
from avpipe.plan.experiment import Experiment
from avpipe.training.embed import embed_run
from avpipe.training.run import open_task

from .conftest import Study, read, run, seed_folder


def embedded(experiment: Experiment, study: Study) -> dict[str, np.ndarray]:
    embed_run(experiment, study.results, 0, "cpu", threads=1)
    path = seed_folder(experiment, study.results) / "embeddings.npz"
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_embeddings_are_those_of_the_checkpoint_for_every_test_clip(study, describe):
    experiment = describe("tacma")
    run(experiment, study.results)
    found = embedded(experiment, study)
    predictions = read(experiment, study.results)["predictions.parquet"]
    assert found.pop("clips").tolist() == predictions["clip"].drop_duplicates().tolist()
    _, task = open_task(experiment, study.results, torch.device("cpu"))
    model = load_model(seed_folder(experiment, study.results) / "checkpoint.pt")
    with torch.inference_mode():
        expected = model(task.dataset("test").__getitems__(range(16))).embeddings
        again = model.classifier(torch.from_numpy(found["fused"])).argmax(-1)
    assert found.keys() == expected.keys()
    for name, embedding in expected.items():
        np.testing.assert_array_equal(found[name], embedding)
    assert again.flatten().tolist() == predictions["prediction"].tolist()


def test_the_file_is_the_same_every_time(study, describe):
    experiment = describe("avel")
    run(experiment, study.results)
    path = seed_folder(experiment, study.results) / "embeddings.npz"
    embedded(experiment, study)
    first = path.read_bytes()
    embedded(experiment, study)
    assert path.read_bytes() == first


def test_a_failed_run_has_no_embeddings(make_study, describe):
    study = make_study(splits=(("train", 16), ("val", 8)))
    experiment = describe("tacma")
    assert run(experiment, study.results)[0]["status"] == "failed"
    found = embedded(experiment, study)
    assert (list(found), len(found["clips"])) == (["clips"], 0)


def test_a_model_without_embeddings_is_named(study, describe):
    experiment = describe("jcan", epochs=1)
    run(experiment, study.results)
    with pytest.raises(ValueError, match="jcan shows no embeddings"):
        embed_run(experiment, study.results, 0, "cpu")


def test_a_missing_run_is_named(study, describe):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        embed_run(describe("tacma", epochs=77), study.results, 0, "cpu")
