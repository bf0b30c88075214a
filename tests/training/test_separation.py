"""The task of separation: its mixtures, what the network is shown, and its scores."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from avpipe.media.presets import MULTISENSORY, Preset
from avpipe.models.multisensory import Multisensory
from avpipe.models.multisensory_separation import MultisensorySeparation, UNet
from avpipe.models.spectrogram import spectrogram
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.training.data import collate
from avpipe.training.pretrained import Pretrained
from avpipe.training.separation import (
    Separation,
    SeparationBatch,
    hide_half,
    mixed_in_batch,
    side_by_side,
    window_of,
)
from tests.builders import encode_video, tar_of

from .conftest import SHARD, write_study

SMALL = Preset(name="small", seconds=3, fps=8, width=32, height=32, sample_rate=21_000, channels=2, pad=False)
OPTIONS = {"base_channels": 1, "dim": 8}


def experiment(**recipe) -> Experiment:
    return Experiment(
        task="separation", model="multisensory_separation", options=OPTIONS, preset=SMALL,
        setting="self-supervised", recipe=Recipe(**{"window": 2.135, "crop": 28, "batch_size": 2, **recipe}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Six clips for training and four of either other split. Frame i of clip n has the brightness 20 n + i / 2."""
    folder = tmp_path_factory.mktemp("study")
    splits = (("train", 6), ("val", 4), ("test", 4))
    results = write_study(folder, splits=splits).results
    clips = pd.read_parquet(results / "clips.parquet")
    clips.assign(duration=3.0).to_parquet(results / "clips.parquet", index=False)
    random, members = np.random.default_rng(0), {}
    for row in range(14):
        pictures = (
            np.full((24, 32, 32, 3), 15 * row, np.uint8)
            + np.arange(24, dtype=np.uint8).reshape(-1, 1, 1, 1) // 2
        )
        sound = io.BytesIO()
        loudness = np.array([0.01, 0.2]) if row != 13 else 0.0  # of the channels; the last clip is silent
        samples = random.normal(size=(63_000, 2)) * loudness
        soundfile.write(sound, np.clip(samples, -1, 1), 21_000, format="FLAC")
        members |= {
            f"clip{row}.mp4": encode_video(pictures, 8),
            f"clip{row}.flac": sound.getvalue(),
            f"clip{row}.json": b"{}",
        }
    assert SHARD > 14
    (results / "segments" / "small").mkdir(parents=True)
    (results / "segments" / "small" / "0.tar").write_bytes(tar_of(members))
    return results


@pytest.fixture
def open_task(results):
    def opened(**recipe) -> Separation:
        asked = experiment(**recipe)
        data = Separation.open(asked, results, torch.device("cpu"), None)
        return Separation(asked, data, MultisensorySeparation)

    return opened


@pytest.fixture
def pairs(results):
    """Writes the list of mixtures."""
    path = results / "annotations" / "pairs.csv"
    path.parent.mkdir(exist_ok=True)
    yield lambda *lines: path.write_text("\n".join(("clip,other", *lines)) + "\n")
    path.unlink()


def number(picture: torch.Tensor) -> int:
    """Which clip a picture, or a part of it, is from."""
    return round((float(picture.float().mean()) - 6) / 15)


def test_a_window_has_the_released_sizes_and_an_option_is_a_longer_one():
    assert window_of(2.135, MULTISENSORY) == (63, 44_144)
    pictures, samples = window_of(4, MULTISENSORY)
    assert spectrogram(torch.zeros(samples)).magnitude.shape == (256, 1025)
    assert pictures == pytest.approx(samples / 21_000 * 29.97, abs=1)
    for fps in (8, 15, 25):
        pictures, samples = window_of(2.135, SMALL.model_copy(update={"fps": fps}))
        assert spectrogram(torch.zeros(samples)).magnitude.shape[0] == 128
        assert 0 <= pictures - samples / 21_000 * fps < 1


def test_both_sounds_have_one_loudness_and_their_sum_is_what_the_network_hears(open_task):
    task = open_task()
    items = [task.datasets()["train"][i] for i in range(2)]
    torch.testing.assert_close(items[0].parts.square().mean(-1), torch.full((2, 2), 0.01))
    heard = []

    class Listening(MultisensorySeparation):
        def forward(self, frames, mixture):
            heard.append(mixture)
            return super().forward(frames, mixture)

    task.loss(Listening(**OPTIONS), collate(items), 0.0)
    assert torch.equal(heard[0], torch.stack([items[0].parts[0] + items[1].parts[0]] * 2))


def test_the_other_clip_is_of_the_same_split_and_drawn_anew_in_each_epoch(open_task):
    train = open_task().datasets()["train"]
    drawn = []
    for train.epoch in (1, 2, 3):
        items = [train[i] for i in range(6)]
        assert [item.clips for item in items] == [f"clip{n}" for n in range(6)]
        assert all(item.clips != item.others for item in items)
        assert all(number(item.frames) == n for n, item in enumerate(items))
        drawn.append([item.others for item in items])
    assert {name for names in drawn for name in names} <= {f"clip{n}" for n in range(6)}
    assert drawn[0] != drawn[1] != drawn[2]


def test_half_of_the_off_screen_sounds_can_be_of_another_dataset_in_training_only(results, tmp_path):
    beside = results.parent / "beside"
    shutil.copytree(results, beside)
    asked = experiment(off_screen="beside")
    data = Separation.open(asked, results, torch.device("cpu"), None)
    # Other names, since both datasets have the same ones.
    data.off_screen[:] = [replace(clip, clip=f"beside {clip.clip}") for clip in data.off_screen]
    assert [clip.clip for clip in data.off_screen] == [f"beside clip{n}" for n in range(6)]
    assert all(clip.tar.is_relative_to(beside.resolve()) for clip in data.off_screen)
    task = Separation(asked, data, MultisensorySeparation)
    train, test = task.datasets()["train"], task.datasets()["test"]
    drawn = []
    for train.epoch in range(1, 11):
        drawn += [train[i].others for i in range(6)]
    from_beside = [name for name in drawn if name.startswith("beside")]
    assert 18 <= len(from_beside) <= 42, "60 draws, half of them"
    assert len(set(from_beside)) > 3
    assert not any(test[i].others.startswith("beside") for i in range(4))


def test_another_datasets_files_are_part_of_a_runs_identity(results):
    plain, mixed = (
        Separation.open(experiment(**recipe), results, torch.device("cpu"), None)
        for recipe in ({}, {"off_screen": results.name})
    )
    assert mixed.digest != plain.digest


def test_mixtures_that_are_evaluated_do_not_depend_on_the_seed(open_task):
    sets = []
    for seed in (0, 1):
        task = open_task()
        task.seed = seed
        sets.append(task.datasets()["test"])
    for i in range(4):
        one, other = sets[0][i], sets[1][i]
        assert one.others == other.others in {f"clip{n}" for n in range(10, 14)} - {one.clips}
        assert torch.equal(one.parts, other.parts)
        assert torch.equal(one.frames, other.frames)


def test_a_list_says_which_mixtures_are_evaluated(open_task, pairs):
    pairs("clip12,clip10", "clip11,clip10", "clip7,clip8")
    task = open_task()
    test = task.datasets()["test"]
    assert [(item.clips, item.others) for item in (test[0], test[1])] == [
        ("clip11", "clip10"),
        ("clip12", "clip10"),
    ]
    assert task.data.counts()["train"] == 6
    assert task.data.counts()["val"] == 1
    assert task.problem() is None


@pytest.mark.parametrize(
    ("line", "message"),
    [("clip10,clip99", "line 3: 'clip99' is none of"), ("clip10,clip0", "two clips of one split"),
     ("clip11,clip11", "two clips of one split"), ("clip12,clip13", "on-screen twice")],
)  # fmt: skip
def test_a_wrong_line_of_the_list_is_named(open_task, pairs, line, message):
    pairs("clip12,clip10", line)
    with pytest.raises(ValueError, match=message):
        open_task()


def test_controls_show_a_third_clip_or_grey_and_leave_the_mixture_as_it_is(open_task):
    own, third, grey = (
        open_task(frames=name).datasets()["test"][0] for name in ("own", "other_clip", "grey")
    )
    assert number(own.frames) == 10
    assert f"clip{number(third.frames)}" not in (own.clips, own.others)
    assert (grey.frames == 128).all()
    assert grey.frames.shape == own.frames.shape == (3, 17, 28, 28)
    assert torch.equal(third.parts, own.parts)
    assert torch.equal(grey.parts, own.parts)


def test_beside_each_other_either_half_is_hidden_and_the_visible_clip_counts_as_on_screen(open_task):
    task = open_task(frames="side_by_side")
    batch = collate([task.datasets()["test"][i] for i in range(2)])
    left, right = batch.frames[0, ..., :14], batch.frames[0, ..., 14:]
    assert [f"clip{number(half)}" for half in (left, right)] == [batch.clips[0], batch.others[0]]
    (first, one), (second, other) = task._shown(batch)
    assert (first, second) == ("right", "left")
    assert torch.equal(one.frames[0, ..., :14], left)
    assert torch.equal(other.frames[0, ..., 14:], right)
    assert (one.frames[..., 14:] == 128).all()
    assert (other.frames[..., :14] == 128).all()
    assert (one.clips, one.others) == (other.others, other.clips) == (batch.clips, batch.others)
    assert torch.equal(one.parts, other.parts.flip(1))


def test_halves_are_squeezed_and_an_odd_column_is_on_the_right():
    frames = torch.arange(10, dtype=torch.uint8).mul(20).expand(3, 2, 5, 10).contiguous()
    both = side_by_side(frames, frames.flip(-1))
    assert both.shape == frames.shape
    assert torch.equal(both[0, 0, 0, :5].flip(0), both[0, 0, 0, 5:])
    assert (both[..., 1:5] > both[..., :4]).all()
    assert side_by_side(frames[..., :9], frames[..., :9]).shape[-1] == 9
    assert (hide_half(frames[..., :9], "left")[..., :4] == 128).all()
    assert torch.equal(hide_half(frames[..., :9], "left")[..., 4:], frames[..., 4:9])


def knowing(truth: torch.Tensor):
    """A network that gives these sounds (B, 2, L)."""
    return lambda frames, mixture: spectrogram(truth)


def test_scores_are_of_the_on_screen_sound(open_task):
    task = open_task()
    batch = collate([task.datasets()["train"][i] for i in range(2)])
    truth = batch.parts.mean(2)
    found = task.evaluate(knowing(truth), [batch])
    assert found.scores["nearer"] == 1
    assert min(found.scores[name] for name in ("sdr", "sir", "sar", "si_sdr")) > 40
    assert found.scores["on_off"] == pytest.approx(0, abs=1e-5)
    swapped = task.evaluate(knowing(truth.flip(1)), [batch])
    assert swapped.scores["nearer"] == 0
    assert swapped.scores["si_sdr"] < -20
    assert swapped.table["to_off"].min() > 40
    assert swapped.scores["on_off"] > 3


def test_the_first_mixtures_have_pictures_of_what_was_seen_and_heard(open_task):
    task = open_task(frames="side_by_side")
    batch = collate([task.datasets()["train"][i] for i in range(2)])
    table = task.evaluate(knowing(batch.parts.mean(2)), [batch]).table
    assert table["hidden"].tolist() == ["right", "left"] * 2
    right, left = table.iloc[0], table.iloc[1]
    assert (right["clip"], right["other"]) == (left["other"], left["clip"])
    seen = [
        np.frombuffer(row["frame"], np.uint8).reshape(row["height"], row["width"], 3) for row in (right, left)
    ]
    grey = [(frame == 128).all(axis=(0, 2)) for frame in seen]
    assert grey[0][14:].all()  # of 28 pixels
    assert grey[1][:14].all()
    # The loudest of neighbouring frequencies; this network gives the true sounds of `right` in both cases.
    loud = {
        name: np.reshape(right[name], (64, -1)) for name in ("mixture", "on", "true_on", "off", "true_off")
    }
    assert loud["on"].shape == (64, 128)
    np.testing.assert_allclose(loud["on"], loud["true_on"], atol=1e-4)
    np.testing.assert_allclose(loud["off"], loud["true_off"], atol=1e-4)
    np.testing.assert_allclose(left["on"], right["true_on"], atol=1e-4)
    assert loud["mixture"].max() >= max(loud["on"].max(), loud["off"].max()) - 6


def test_a_network_without_an_order_is_scored_in_the_better_one(open_task):
    task = open_task(loss_weights={"on_off": 0.0, "any_order": 1.0})
    batch = collate([task.datasets()["train"][i] for i in range(2)])
    found = task.evaluate(knowing(batch.parts.mean(2).flip(1)), [batch])
    assert found.scores["sdr"] > 40
    assert found.scores["on_off"] == pytest.approx(0, abs=1e-5)
    assert found.scores["nearer"] == 0


def test_with_the_mixtures_phases_sounds_are_not_exact_but_magnitudes_are(open_task):
    task = open_task(phase="mixture")
    batch = collate([task.datasets()["train"][0]])
    found = task.evaluate(knowing(batch.parts.mean(2)), [batch])
    assert 0 < found.scores["si_sdr"] < 20
    assert found.scores["on_off"] == pytest.approx(0, abs=1e-5)


def test_mixtures_with_silence_have_no_ratios_and_are_left_out_of_their_means(open_task):
    task = open_task()
    items = [
        replace(item, parts=item.parts.clone()) for item in map(task.datasets()["train"].__getitem__, (0, 1))
    ]
    items[1].parts[1] = 0.0
    batch = collate(items)
    found = task.evaluate(knowing(batch.parts.mean(2)), [batch])
    assert found.table["sdr"].isna().tolist() == [False, True]
    assert found.scores["sdr"] == found.table["sdr"][0]
    assert found.scores["nearer"] == 1


def test_baselines_are_the_mixture_and_masks_that_know_the_sounds(open_task, pairs):
    pairs("clip10,clip11", "clip11,clip12")
    found = open_task().baselines()
    assert found["the mixture"]["si_sdr"] == pytest.approx(0, abs=0.5)
    assert found["ideal ratio mask (ceiling)"]["si_sdr"] > found["the mixture"]["si_sdr"] + 3
    assert open_task(frames="grey").baselines() == {}


def test_starts_from_an_alignment_network_or_from_a_separation_network(open_task):
    torch.manual_seed(0)
    before = Multisensory(dim=8)
    task = open_task()
    task.start = Pretrained("before", before.state_dict(), "")
    network = task.model()
    assert torch.equal(network.multisensory.fused.conv5_2.second.weight, before.fused.conv5_2.second.weight)
    assert (network.multisensory.fused.conv5_2.norm.weight == 1).all()
    task.start = Pretrained("before", network.state_dict(), "")
    torch.testing.assert_close(task.model().state_dict(), network.state_dict(), rtol=0, atol=0)


def test_in_training_the_clips_of_a_batch_are_mixed_with_one_another():
    parts = torch.randn(4, 2, 2, 5)
    found = mixed_in_batch(parts)
    assert torch.equal(found[:, 0], parts[:, 0])
    assert torch.equal(found[:, 1], parts[[2, 3, 0, 1], 0])  # mixtures 0 and 2, 1 and 3 are the same
    assert torch.equal(mixed_in_batch(parts[:3])[:, 1], parts[[1, 2, 0], 0])
    assert torch.equal(mixed_in_batch(parts[:1]), parts[:1])


@pytest.mark.parametrize("off_screen", [False, True])
def test_sounds_of_another_dataset_stay_in_their_mixtures(open_task, off_screen):
    task = open_task(loss_weights={"l2": 0.0})
    task.data = replace(task.data, off_screen=list(task.data.raw.values()) if off_screen else [])
    batch = collate([task.datasets()["train"][i] for i in range(2)])
    expected = batch.parts if off_screen else torch.stack([batch.parts[:, 0], batch.parts[[1, 0], 0]], 1)
    loss = task.loss(knowing(expected.mean(2)), batch, 0.0)["on_off"]
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_the_loss_has_the_terms_that_have_a_factor(open_task):
    named = MultisensorySeparation.default_loss_weights
    batch = collate([open_task().datasets()["train"][i] for i in range(2)])
    for chosen in ({"on_off"}, {"any_order", "l2"}, set(named)):
        task = open_task(loss_weights={name: float(name in chosen) for name in named})
        assert task.loss(MultisensorySeparation(**OPTIONS), batch, 0.0).keys() == chosen


def test_the_penalty_is_on_the_weights_of_the_u_nets_convolutions_alone(open_task):
    task = open_task(loss_weights={"on_off": 0.0, "l2": 0.5})
    network = MultisensorySeparation(**OPTIONS)
    terms = task.loss(network, collate([task.datasets()["train"][0]]), 0.0)
    assert list(terms) == ["l2"]
    terms["l2"].backward()
    for name, weight in network.named_parameters():
        penalized = name.startswith("unet.") and weight.ndim == 4
        assert (weight.grad is not None) == penalized, name
        if penalized:
            torch.testing.assert_close(weight.grad, 0.5 * weight)
    assert sum(w.ndim == 4 for w in UNet(1, (1, 2, 8)).parameters()) == 19  # 9 down, 8 up, 2 last


def test_other_rates_and_crops_are_refused(open_task):
    task = open_task()
    for change, message in (
        ({"preset": SMALL.model_copy(update={"sample_rate": 16_000})}, "21000 Hz"),
        ({"recipe": Recipe(window=2.135, crop=33)}, "recipe.crop"),
    ):
        asked = task.experiment.model_copy(update=change)
        assert message in Separation(asked, task.data, MultisensorySeparation).problem()


def test_an_item_has_the_types_of_its_batch(open_task):
    item = open_task().datasets()["val"][0]
    assert isinstance(item, SeparationBatch)
    assert (item.frames.dtype, item.frames.shape) == (torch.uint8, (3, 17, 28, 28))
    assert (item.parts.dtype, item.parts.shape[:2]) == (torch.float32, (2, 2))
