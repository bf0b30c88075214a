"""Action recognition: windows and crops, clips that are short or silent, and what fine-tuning starts from."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn

from avpipe.media.presets import Preset
from avpipe.models.multisensory import Multisensory
from avpipe.models.multisensory_layers import BatchNorm
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.training.actions import Actions, crops, looped, window_of, window_starts
from avpipe.training.alignment import Alignment, samples_of
from avpipe.training.data import in_order
from avpipe.training.pretrained import Pretrained
from tests.builders import encode_video, tar_of

from .conftest import run, write_study

SMALL = Preset(name="small", seconds=10, fps=10, width=32, height=32, sample_rate=4000, channels=2, pad=False)
SAMPLES = 400  # of a frame
FRAMES = (6, 12, 12, 12, 12, 6, 12)  # of the clips; a window has 8
SILENT = (2,)
RECIPE = {"window": 0.8, "crop": 24, "epochs": 1, "batch_size": 2, "protocol": "last"}


def experiment(task="actions", setting="supervised", **recipe) -> Experiment:
    return Experiment(
        task=task, model="multisensory", options={"dim": 8}, preset=SMALL, setting=setting,
        recipe=Recipe(**{**RECIPE, **recipe}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Seven clips. Frame i is grey of 20 i; sample i of clip n is i / 8192 to the left and n / 8 to the right."""
    folder = tmp_path_factory.mktemp("study")
    results, members = write_study(folder, splits=(("train", 4), ("test", 3))).results, {}
    for row, frames in enumerate(FRAMES):
        pictures = np.full((frames, 32, 32, 3), 20, np.uint8) * np.arange(frames)[:, None, None, None]
        sound, left = io.BytesIO(), np.arange(frames * SAMPLES) / 8192
        both = np.stack([left, np.full_like(left, row / 8)], axis=1)
        soundfile.write(sound, both, 4000, format="FLAC")
        members[f"clip{row}.mp4"] = encode_video(pictures.astype(np.uint8), 10)
        if row not in SILENT:
            members[f"clip{row}.flac"] = sound.getvalue()
        members[f"clip{row}.json"] = b"{}"
    clips = pd.read_parquet(results / "clips.parquet").assign(duration=np.array(FRAMES) / 10)
    clips.to_parquet(results / "clips.parquet", index=False)
    (results / "segments" / "small").mkdir(parents=True)
    (results / "segments" / "small" / "0.tar").write_bytes(tar_of(members))
    return results


@pytest.fixture
def task(results):
    def make(kind=Actions, asked=None, **recipe):
        asked = asked or experiment(**recipe)
        return kind(asked, kind.open(asked, results, torch.device("cpu"), None), Multisensory)

    return make


def shown(frames: torch.Tensor) -> list[int]:
    """The indices of frames (3, T, H, W)."""
    return (frames.float().mean((0, 2, 3)) / 20).round().int().tolist()


@pytest.mark.parametrize(
    ("count", "window", "number", "expected"),
    [
        (100, 76, 5, [2, 7, 12, 17, 22]),  # 0 to 24, in five parts of five
        (100, 76, 1, [12]),
        (78, 76, 25, [0, 1, 2]),
        (76, 76, 25, [0]),
        (10, 76, 25, [0]),
    ],
)
def test_windows_are_evenly_spaced_and_a_short_clip_has_one(count, window, number, expected):
    assert window_starts(count, window, number) == expected


def test_crops_are_the_centre_or_corners_and_centre_in_both_ways():
    assert crops(10, 14, 6, 1) == [(2, 4, False)]
    places = [(0, 0), (0, 8), (4, 0), (4, 8), (2, 4)]
    assert crops(10, 14, 6, 10) == [(*place, mirrored) for place in places for mirrored in (False, True)]


def test_a_short_clip_is_repeated_in_step_with_its_sound():
    assert looped(0, 8, 3).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    sound = torch.arange(3 * SAMPLES).expand(2, -1)
    repeated = window_of(sound, samples_of(0, 8, SMALL))
    assert torch.equal(repeated[0, ::SAMPLES] // SAMPLES, torch.from_numpy(looped(0, 8, 3)))
    assert window_of(sound, samples_of(0, 8, SMALL), -1)[0, :2].tolist() == [3 * SAMPLES - 1, 0]


def test_a_sound_that_is_moved_stays_inside_its_clip():
    sound = torch.arange(12).expand(2, -1)
    assert window_of(sound, slice(3, 7), 2)[0].tolist() == [5, 6, 7, 8]
    assert window_of(sound, slice(0, 4), -2)[0].tolist() == [0, 1, 2, 3]
    assert window_of(sound, slice(7, 11), 9)[0].tolist() == [8, 9, 10, 11]


def test_training_sees_every_window_in_step_and_repeats_a_short_clip(task):
    made = task()
    short, long = made.datasets()["train"].clips[:2]
    torch.manual_seed(0)
    assert shown(made.read(short).frames) == [0, 1, 2, 3, 4, 5, 0, 1]
    seen = set()
    for _ in range(30):
        item = made.read(long)
        start = shown(item.frames)[0]
        assert shown(item.frames) == list(range(start, start + 8))
        assert item.frames.shape == (3, 8, 24, 24)
        assert item.waveform.shape == (2, 8 * SAMPLES)
        assert round(float(item.waveform[0, 0]) * 8192) == start * SAMPLES
        seen.add(start)
    assert seen == {0, 1, 2, 3, 4}


def test_the_sounds_jitter_is_at_most_that_of_the_recipe(task):
    made = task(audio_jitter=0.5)
    clip = made.datasets()["train"].clips[1]
    torch.manual_seed(0)
    shifts = []
    for _ in range(30):
        item = made.read(clip)
        start = shown(item.frames)[0]
        if start in (1, 2, 3):  # at a clip's ends its sound cannot move both ways
            shifts.append(round(float(item.waveform[0, 0]) * 8192) - start * SAMPLES)
    assert -SAMPLES / 2 <= min(shifts) < 0 < max(shifts) <= SAMPLES / 2
    assert len(set(shifts)) > 5


def test_a_clip_without_sound_is_used_and_silent(task):
    made = task()
    clip = made.datasets()["train"].clips[SILENT[0]]
    assert torch.equal(made.read(clip).waveform, torch.zeros(2, 8 * SAMPLES))
    assert torch.equal(made.read_held_out(clip).waveform, torch.zeros(2, 12 * SAMPLES))


def test_the_label_is_the_clips_category(task, results):
    made = task()
    named = [made.data.categories[made.read(clip).category] for clip in made.datasets()["train"].clips]
    assert named == ["Bark", "Bell", "Horn", "Bark"]  # as `write_study` numbers them
    assert made.problem() is None
    events = made.data.events
    second = events[(events["clip"] == "clip1") & (events["modality"] == "video")].assign(category="Horn")
    both = replace(made.data, events=pd.concat([events, second]))
    assert (
        "1 clips do not have exactly one category" in Actions(made.experiment, both, Multisensory).problem()
    )


class Probe(nn.Module):
    """Logits of three categories: the mean of the frames, that of the sound, and zero."""

    def forward(self, frames, waveform):
        seen, heard = frames.float().mean((1, 2, 3, 4)) / 100, waveform.mean((1, 2)) * 2
        return torch.stack([seen, heard, torch.zeros_like(seen)], dim=1)


def test_a_held_out_clips_windows_are_averaged_as_probabilities(task):
    made = task(test_clips=3, test_crops=10)
    clips = made.datasets()["test"]
    table = made.evaluate(Probe(), in_order(clips, torch.device("cpu"))).table
    assert table["clip"].tolist() == ["clip4", "clip5", "clip6"]
    assert table["category"].tolist() == ["Bell", "Horn", "Bark"]
    for row, starts in ((0, [0, 2, 4]), (1, [0]), (2, [0, 2, 4])):  # 12 frames and 6, in windows of 8
        item = clips[row]
        frames, sound = item.frames.double().numpy(), item.waveform.double().numpy()
        frames, sound = np.concatenate([frames] * 2, axis=1), np.concatenate([sound] * 2, axis=1)
        found = []
        for start in starts:
            part = frames[:, start : start + 8]
            heard = sound[:, start * SAMPLES : (start + 8) * SAMPLES].mean() * 2
            for top, left in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4)):
                seen = part[..., top : top + 24, left : left + 24].mean() / 100
                odds = np.exp([seen, heard, 0])
                found.append(odds / odds.sum())  # its mirror image has the same mean
        expected = np.mean(found, axis=0)
        assert table["probability"][row] == pytest.approx(expected.max(), rel=1e-5)
        assert table["prediction"][row] == ("Bark", "Bell", "Horn")[expected.argmax()]


def test_accuracy_counts_clips_and_class_accuracy_categories(task):
    made = task()

    class Always(nn.Module):
        def forward(self, frames, waveform):
            return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(frames), -1)

    clips = made.datasets()["test"]
    clips.clips = [clips.clips[0], *[clips.clips[2]] * 3]  # Bell once, Bark three times
    scores = made.evaluate(Always(), in_order(clips, torch.device("cpu"))).scores
    assert scores == pytest.approx({"accuracy": 3 / 4, "class_accuracy": 1 / 2})


def test_fine_tuning_starts_from_all_of_alignment_but_the_head_and_with_gamma_one(task):
    torch.manual_seed(1)
    before = Multisensory(dim=8)
    for parameter in before.parameters():
        nn.init.normal_(parameter)
    made = task()
    made.start = Pretrained("multisensory-1", before.state_dict(), "")
    model = made.model()
    own, given = model.state_dict(), before.state_dict()
    gammas = [m.weight for m in model.modules() if isinstance(m, BatchNorm)]
    assert len(gammas) == sum(isinstance(m, BatchNorm) for m in before.modules())
    assert all(torch.equal(gamma, torch.ones_like(gamma)) for gamma in gammas)
    assert own["head.weight"].shape == (3, 8, 1, 1, 1)
    assert torch.equal(own["head.bias"], torch.zeros(3))
    assert all(torch.equal(own[name], given[name]) for name in given if not name.startswith("head."))


@pytest.mark.slow
def test_a_run_is_trained_and_scored(results):
    record = run(experiment(test_clips=2, test_crops=1), results)[0]
    assert record["status"] == "ok"
    assert record["counts"]["train"] == 4
    assert set(record["metrics"]["last"]) == {"accuracy", "class_accuracy"}
    assert record["baselines"] == {"always the most frequent category": {"accuracy": 1 / 3}}


@pytest.mark.parametrize("read", ["read", "read_held_out"])
def test_random_pairing_takes_the_wrong_sound_of_another_clip(task, read):
    asked = experiment("alignment", "self-supervised", overlap=7, negatives="other_clip")
    made, heard = task(Alignment, asked), set()
    clip = made.data.raw["clip1" if read == "read" else "clip4"]
    torch.manual_seed(0)
    for _ in range(10):
        item = getattr(made, read)(clip)
        clips = (item.sounds[:, 1].mean(1) * 8).round().int().tolist()
        own, other = clips if item.aligned[0] else clips[::-1]
        assert own == int(clip.clip[-1])
        heard.add(other)
    assert heard == {
        3 if read == "read" else 6
    }  # of the others of the split only this one has sound and is long enough
