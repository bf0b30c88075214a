"""AV-BT's task: which clips it opens, what it draws, and the features that its networks give."""

import io
import shutil

import numpy as np
import pytest
import soundfile
import torch

from avpipe.media.presets import Preset
from avpipe.models import load_model
from avpipe.models.avbt import AVBT
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.training import raw
from avpipe.training.barlow_twins import BarlowTwins, augment
from avpipe.training.run import train_experiment
from tests.builders import encode_video, tar_of

from .conftest import SHARD, write_study

SMALL = Preset(name="small", seconds=10, fps=2, width=64, height=64, sample_rate=16_000)
OPTIONS = {
    "backbone": "resnet18", "weights": "random", "image_size": 32, "cnn_dim": 8, "audio_channels": 1, "dim": 4,
    "projector_dim": 8,
}  # fmt: skip
RECIPE = {"epochs": 2, "batch_size": 3, "protocol": "last"}


def experiment(**recipe) -> Experiment:
    return Experiment(
        task="barlow_twins", model="avbt", options=OPTIONS, preset=SMALL, setting="self-supervised",
        recipe=Recipe(**{**RECIPE, **recipe}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Six training clips, and a clip of each other split that cannot be decoded."""
    folder = tmp_path_factory.mktemp("study")
    results = write_study(folder, splits=(("train", 6), ("val", 1), ("test", 1))).results
    random, members = np.random.default_rng(0), {}
    for row in range(8):
        pictures = np.repeat(random.integers(0, 256, (20, 8, 8, 3), np.uint8).repeat(8, 1), 8, 2)
        sound = io.BytesIO()
        soundfile.write(
            sound, random.normal(size=160_000) * random.random(160_000) / 9, 16_000, format="FLAC"
        )
        broken = row > 5
        members |= {
            f"clip{row}.mp4": b"" if broken else encode_video(pictures, 2),
            f"clip{row}.flac": b"" if broken else sound.getvalue(),
            f"clip{row}.json": b"{}",
        }
    assert SHARD > 8
    (results / "segments" / "small").mkdir(parents=True)
    (results / "segments" / "small" / "0.tar").write_bytes(tar_of(members))
    return results


def trained(results, **recipe) -> AVBT:
    asked = experiment(**recipe)
    train_experiment(asked, results, [0], "cpu", threads=1)
    model = load_model(results / "runs" / asked.id / "seed0" / "checkpoint.pt")
    assert isinstance(model, AVBT)
    return model


@pytest.mark.slow
def test_only_training_clips_are_opened(results, monkeypatch):
    opened, decoded = set(), raw.RawClip._decoded

    def noting(clip, *arguments):
        opened.add(clip.clip)
        return decoded(clip, *arguments)

    monkeypatch.setattr(raw.RawClip, "_decoded", noting)
    trained(results)
    assert opened == {f"clip{n}" for n in range(6)}


@pytest.mark.slow
def test_batch_norms_end_with_the_statistics_of_the_clips_as_features_see_them(results):
    model = trained(results, epochs=0, batch_size=6)
    task = BarlowTwins(experiment(), BarlowTwins.open(experiment(), results, torch.device("cpu"), None), AVBT)
    clips = [task.segments(clip) for clip in task.datasets()["train"].clips]
    pixels = model._pixels(torch.stack([clip.frames for clip in clips]).flatten(0, 1))
    first, normalized = model.visual_cnn[0](pixels), model.visual_cnn[1]
    torch.testing.assert_close(normalized.running_mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normalized.running_var, first.var((0, 2, 3)), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_sounds_of_other_clips_train_another_network_from_the_same_weights(results):
    own, other, untrained = (
        trained(results, **changes).state_dict() for changes in ({}, {"pairs": "other_clip"}, {"epochs": 0})
    )
    weight = "audio_lstm.weight_ih_l0"
    assert not torch.equal(own[weight], other[weight])
    assert not torch.equal(own[weight], untrained[weight])


@pytest.mark.slow
def test_in_bfloat16_it_trains_too_and_its_weights_stay_in_float32(results):
    weights = trained(results, epochs=1, precision="bfloat16").state_dict()
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}
    assert all(weight.isfinite().all() for weight in weights.values())


FRAMES = torch.arange(3 * 48 * 48, dtype=torch.int32).remainder(251).to(torch.uint8).view(1, 1, 3, 48, 48)


@pytest.mark.parametrize("name", ["crop", "mild_crop", "flip", "jitter", "grayscale", "blur", "solarize"])
def test_an_augmentation_changes_all_frames_of_a_clip_alike_and_clips_differently(name):
    torch.manual_seed(0)
    frames = FRAMES.expand(12, 2, 3, 48, 48)
    changed = augment(frames, (name,), 32)
    size = 32 if "crop" in name else 48
    assert (changed.shape, changed.dtype) == ((12, 2, 3, size, size), torch.uint8)
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert len({clip.numpy().tobytes() for clip in changed[:, 0]}) > 1


def test_without_augmentation_frames_stay_as_they_are():
    assert augment(FRAMES, (), 32) is FRAMES


def test_a_mild_crop_keeps_at_least_half_of_the_area():
    torch.manual_seed(0)
    ramp = torch.arange(200, dtype=torch.uint8).expand(300, 1, 3, 200, 200)  # a pixel's value is its column

    def widths(name):
        columns = augment(ramp, (name,), 32).float()[..., 0, :].mean((1, 2))  # (300, 32)
        return (columns[:, -1] - columns[:, 0]) / 200

    # at an aspect ratio from 3/4 to 4/3, half of the area is at least 0.61 of the width
    assert widths("mild_crop").min() > 0.55
    assert widths("crop").min() < 0.4


@pytest.mark.slow
def test_stopped_inside_an_epoch_and_run_again_the_weights_are_those_of_an_uninterrupted_run(
    results, monkeypatch
):
    asked = experiment(epochs=3)
    folder = results / "runs" / asked.id / "seed0"
    expected = trained(results, epochs=3).state_dict()
    shutil.rmtree(folder)
    steps, loss = [], BarlowTwins.loss

    def stopping(task, *arguments):
        steps.append(1)
        if len(steps) == 4:  # the second of two steps in the second epoch
            raise KeyboardInterrupt
        return loss(task, *arguments)

    monkeypatch.setattr(BarlowTwins, "loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_experiment(asked, results, [0], "cpu", threads=1, save_steps=1)
    train_experiment(asked, results, [0], "cpu", threads=1)
    assert len(steps) == 4 + 3, "three of six steps were done before, and are not done again"
    found = load_model(folder / "checkpoint.pt").state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
