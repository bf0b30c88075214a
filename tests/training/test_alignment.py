"""Multisensory's training for alignment, and the scores of its maps: windows, sounds, controls, stages."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from avpipe.media.presets import MULTISENSORY, Preset
from avpipe.models import load_model
from avpipe.models.multisensory import Multisensory
from avpipe.models.multisensory_layers import SameConv
from avpipe.plan.experiment import Experiment
from avpipe.plan.plan import Plan
from avpipe.plan.recipe import Recipe
from avpipe.plan.study import read_study
from avpipe.training.alignment import RESTARTED, Alignment, frames_of, samples_of, shift_pairs
from avpipe.training.data import collate
from avpipe.training.fit import weights_of
from avpipe.training.optimizers import make_optimizer
from avpipe.training.pretrained import Pretrained
from avpipe.training.source_localization import SourceLocalization, sound_maps
from tests.builders import encode_video, tar_of

from .conftest import read, run, write_study

ROOT = Path(__file__).resolve().parents[2]
TINY = Preset(name="tiny", seconds=3, fps=10, width=24, height=24, sample_rate=4000, channels=2, pad=False)
CLIPS, SHORT = 10, 9  # clip 9 has 1.7 s
RECIPE = {"window": 1.0, "overlap": 4, "crop": 20, "batch_size": 3, "epochs": 1, "lr": 1e-3}
WORKFLOW = ROOT / "workflow"


def experiment(task="alignment", *, before: Experiment | None = None, options=None, **recipe) -> Experiment:
    return Experiment(
        task=task, model="multisensory", options={"dim": 8, "decay": 0.5, **(options or {})}, preset=TINY,
        setting="self-supervised", recipe=Recipe(**{**RECIPE, **recipe} if task == "alignment" else recipe), pretraining=before,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Six training clips and two of each other split. Sample j of every clip is j / 32768 on the left, its negative right."""
    folder = tmp_path_factory.mktemp("study")
    results = write_study(folder, splits=(("train", 6), ("val", 2), ("test", 2))).results
    table = pd.read_parquet(results / "clips.parquet")
    table["duration"] = [1.7 if row == SHORT else 3.0 for row in range(CLIPS)]
    table.to_parquet(results / "clips.parquet", index=False)
    random, members = np.random.default_rng(0), {}
    for row in range(CLIPS):
        count = 17 if row == SHORT else 30
        # Frame n is of an even colour: 8 n.
        pictures = np.broadcast_to(
            (8 * np.arange(count, dtype=np.uint8))[:, None, None, None], (count, 24, 24, 3)
        )
        if row == 0:
            pictures = random.integers(0, 256, (count, 24, 24, 3), np.uint8)
        ramp, sound = np.arange(count * 400, dtype=np.int16), io.BytesIO()
        soundfile.write(sound, np.stack([ramp, -ramp], axis=1), 4000, format="FLAC")
        members |= {
            f"clip{row}.mp4": encode_video(pictures, 10),
            f"clip{row}.flac": sound.getvalue(),
            f"clip{row}.json": b"{}",
        }
    (results / "segments" / "tiny").mkdir(parents=True)
    (results / "segments" / "tiny" / "0.tar").write_bytes(tar_of(members))
    return results


def task_of(results, asked: Experiment) -> Alignment:
    task = Alignment(asked, Alignment.open(asked, results, torch.device("cpu"), None), Multisensory)
    assert task.problem() is None
    return task


def first_samples(sounds: torch.Tensor) -> torch.Tensor:
    """The number of each sound's first sample in its clip: (2, 2, L) -> (2,)."""
    return (sounds[:, 0, 0] * 32768).round().long()


def test_shifts_are_the_papers():
    """302 frames, windows of 125 that share 60 at most: of the 177 start frames, 177 - d pairs are d apart, in both orders."""
    pairs = shift_pairs(302, 125, 60)
    apart = (pairs[:, 0] - pairs[:, 1]).abs()
    assert (pairs.min(), pairs.max()) == (0, 176)
    assert (apart.min(), apart.max()) == (65, 176)
    assert len(pairs) == 2 * sum(177 - d for d in range(65, 177)) == 12_656
    assert len({tuple(pair) for pair in pairs.tolist()}) == 12_656
    assert apart.double().mean().item() / float(MULTISENSORY.fps) == pytest.approx(3.40, abs=0.005)


def test_both_windows_of_a_pair_are_distributed_alike():
    for own in (shift_pairs(302, 125, 60), shift_pairs(30, 10, 4)):
        assert torch.equal(own[:, 0].bincount(minlength=177), own[:, 1].bincount(minlength=177))


def test_windows_are_the_papers():
    assert frames_of(4.2, MULTISENSORY) == 125
    assert samples_of(0, 125, MULTISENSORY) == slice(0, 87_588)
    assert samples_of(3, 125, MULTISENSORY) == slice(2102, 2102 + 87_588)  # 3 x 700.7 = 2102.1


def test_a_clip_that_is_too_short_for_two_windows_is_not_usable(results):
    """Windows of 10 frames that share 4 are 6 apart: with the last start left out, 17 frames; and one more for rounding."""
    assert len(shift_pairs(17, 10, 4)) == 2
    assert len(shift_pairs(16, 10, 4)) == 0
    assert task_of(results, experiment()).data.counts()["test"] == 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_sounds_are_the_clips_at_the_right_samples(results, split):
    item = task_of(results, experiment()).datasets()[split][1]
    assert item.frames.shape == (3, 10, 20, 20)
    assert item.sounds.shape == (2, 2, 4000)
    assert torch.equal(item.sounds[:, 1], -item.sounds[:, 0])
    assert torch.equal(item.sounds[:, 0].diff(), torch.full((2, 3999), 1 / 32768))
    true, shifted = item.starts.tolist()
    assert abs(true - shifted) >= 6
    order = [true, shifted] if item.aligned.tolist() == [1, 0] else [shifted, true]
    assert first_samples(item.sounds).tolist() == [
        400 * start for start in order
    ]  # 4000 / 10 samples a frame
    colours = item.frames.float().mean((0, 2, 3)) / 8  # the frames' numbers
    assert colours.tolist() == pytest.approx(list(range(true, true + 10)), abs=0.5)


def test_every_second_frame_is_seen_and_all_of_the_sound_is_heard(results):
    item = task_of(results, experiment(frame_step=2)).datasets()["val"][0]
    colours = item.frames.float().mean((0, 2, 3)) / 8
    assert colours.tolist() == pytest.approx(item.starts[0].item() + np.arange(0, 10, 2), abs=0.5)
    assert item.sounds.shape == (2, 2, 4000)


def test_held_out_clips_have_the_same_windows_for_every_model_and_epoch(results):
    sets = [task_of(results, experiment(lr=lr)).datasets()["val"] for lr in (0.1, 0.2)]
    sets[1].seed, sets[1].epoch = 5, 3
    items = [[own[0], own[1]] for own in sets]
    for one, other in zip(*items, strict=True):
        assert torch.equal(one.starts, other.starts)
        assert torch.equal(one.frames, other.frames)
        assert one.aligned.tolist() == [1, 0]
    assert not torch.equal(items[0][0].starts, items[0][1].starts)


def test_training_draws_windows_crops_flips_and_the_order(results):
    task, seen = task_of(results, experiment()), []
    clips = task.datasets()["train"]
    whole = clips.clips[0].frames.at(np.arange(30)).astype(int)
    for epoch in range(1, 25):
        clips.epoch = epoch
        item = clips[0]
        first = item.frames[:, 0].permute(1, 2, 0).numpy()  # (20, 20, 3)
        places = [
            (top, left, flip)
            for top in range(4)
            for left in range(4)  # 24 - 20 places, as the released code draws
            for flip in (1, -1)
            if (whole[item.starts[0], top : top + 20, left : left + 20][:, ::flip] == first).all()
        ]
        assert len(places) == 1
        seen.append((*places[0], *item.starts.tolist(), item.aligned[0].item()))
    for drawn, few in zip(zip(*seen, strict=True), (3, 3, 2, 6, 6, 2), strict=True):
        assert len(set(drawn)) >= few


def test_controls_leave_out_what_they_say(results):
    def items(control: str) -> list:
        clips = task_of(results, experiment(control=control)).datasets()
        return [clips[split][number] for split in ("train", "val") for number in (0, 1)]

    for plain, sound, frames, still in zip(
        *map(items, ("none", "sound", "frames", "one_frame")), strict=True
    ):
        assert not sound.frames.any()
        assert torch.equal(sound.sounds[0, 0].diff(), plain.sounds[0, 0].diff())
        assert not frames.sounds.any()
        assert frames.frames.any()
        assert torch.equal(still.frames, still.frames[:, :1].expand_as(still.frames))
        assert still.sounds.any()


def test_the_frozen_frame_is_of_the_whole_clip(results):
    """A frame of the window itself would say how loud the sound is at its instant."""
    task = task_of(results, experiment(control="one_frame"))
    clip = task.datasets()["val"].clips[0]
    drawn = []
    for number in range(60):
        item = task.read_held_out(replace(clip, clip=f"name {number}"))
        drawn.append(round(item.frames.float().mean().item() / 8) - item.starts[0].item())
    assert min(drawn) < 0
    assert max(drawn) >= 10


def test_without_pictures_other_pictures_change_nothing(results):
    task = task_of(results, experiment(control="sound"))
    model = task.model().eval()
    clips = task.datasets()["train"].clips
    other = replace(clips[0], parts={**clips[0].parts, "mp4": clips[1].parts["mp4"]})
    with torch.no_grad():
        logits = [
            model(i.frames, i.sounds) for i in (collate([task.read_held_out(c)]) for c in (clips[0], other))
        ]
    assert torch.equal(*logits)


@pytest.mark.slow
def test_without_sound_accuracy_is_exactly_chance(results):
    (metrics,) = run(experiment(control="frames"), results)
    assert metrics["metrics"]["validation"] == {"accuracy": 0.5}
    assert metrics["baselines"] == {"guessing": {"accuracy": 0.5}}


def test_two_sounds_of_a_clip_have_the_logits_of_each_with_the_same_pictures():
    torch.manual_seed(0)
    model = Multisensory(dim=8).eval()
    frames, sounds = (
        torch.randint(0, 256, (2, 3, 10, 20, 20), dtype=torch.uint8),
        torch.randn(2, 2, 2, 4000) / 5,
    )
    each = torch.stack([model(frames, sounds[:, number]) for number in (0, 1)], dim=1)
    both = model(frames, sounds)
    assert both.shape == (2, 2, 1)
    torch.testing.assert_close(both, each)


def test_weight_decay_is_on_the_weights_of_convolutions_only():
    model = Multisensory(dim=8)
    recipe = Recipe(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=1e-5)
    decayed, others = make_optimizer(recipe, model).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (1e-5, 0.0)
    weights = {id(part.weight) for part in model.modules() if isinstance(part, SameConv)}
    assert {id(weight) for weight in decayed["params"]} == weights
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(("frame_step", "restarts"), [(4, True), (1, False)])
def test_at_another_rate_second_blocks_are_drawn_anew_and_all_else_is_carried_over(
    results, frame_step, restarts
):
    before = experiment(frame_step=frame_step)
    task = task_of(results, experiment(before=before))
    torch.manual_seed(1)
    first = weights_of(task_of(results, before).model())
    changed = {name: weight + 1 for name, weight in first.items()}
    task.start = Pretrained(before.id, changed, "")
    kept = {name for name, weight in weights_of(task.model()).items() if torch.equal(weight, changed[name])}
    fresh = {name for name in changed if name.startswith(RESTARTED)}
    assert len({name.rsplit(".", 2)[0] for name in fresh}) > 4
    assert kept == (changed.keys() - fresh if restarts else changed.keys())
    assert "head.weight" in kept


def test_a_crop_or_an_overlap_that_does_not_fit_is_named(results):
    for recipe, message in (({"crop": 25}, "crop: 25 pixels"), ({"overlap": 10}, "overlap: 10 frames")):
        asked = experiment(**recipe)
        data = Alignment.open(asked, results, torch.device("cpu"), None)
        assert message in (Alignment(asked, data, Multisensory).problem() or "")


def test_the_study_of_audioset_is_the_papers():
    plan = Plan(read_study(str(WORKFLOW / "configs" / "audioset_multisensory.yaml"), "study"), WORKFLOW)
    assert plan.study.dataset.options["total"] == 750_000
    assert plan.presets == [MULTISENSORY]
    rows = plan.tables["multisensory_alignment"].experiments(plan.study)
    full = rows["full", "self-supervised"]
    assert full.pretraining is not None
    recipe, first = full.recipe, full.pretraining.recipe
    assert (recipe.window, recipe.overlap, recipe.crop, recipe.frame_step, recipe.batch_size) == (
        4.2,
        60,
        224,
        1,
        15,
    )
    assert (first.window, first.overlap, first.crop, first.frame_step) == (4.2, 60, 224, 4)
    for each in (recipe, first):
        assert (each.optimizer, each.lr, each.momentum, each.schedule) == ("sgd", 0.01, 0.9, "constant")
        assert (each.weight_decay, each.clip_norm, each.control) == (1e-5, 5, "none")
    controls = {row: own for (row, _), own in rows.items() if row != "full"}
    assert (
        {own.recipe.control for own in controls.values()} == set(controls) == {"sound", "frames", "one_frame"}
    )
    assert all(own.pretraining == full.pretraining for own in controls.values())


def annotate(results) -> None:
    """clip8, the only usable test clip: a source in the left upper quarter at 0.5 and 2.5 s, one off screen at 1.5 s."""
    (results / "annotations").mkdir(exist_ok=True)
    (results / "annotations" / "sources.csv").write_text(
        "clip,time,x0,y0,x1,y1,on_screen\nclip8,0.5,0,0,0.5,0.5,1\nclip8,1.5,,,,,0\nclip8,2.5,0,0,0.5,0.5,1\n"
        "clip0,0.5,0,0,1,1,1\n"
    )


@pytest.mark.slow
def test_the_maps_of_a_training_are_scored_beside_the_baselines(results):
    annotate(results)
    before = experiment()
    run(before, results)
    asked = experiment("source_localization", before=before, epochs=0, protocol="last")
    (metrics,) = run(asked, results)
    assert metrics["reason"] is None
    scores, baselines = metrics["metrics"]["last"], metrics["baselines"]
    assert set(scores) == set(SourceLocalization.metrics)
    assert all(0 <= score <= 1 for score in scores.values())
    # A quarter of the image sounds.
    assert baselines["the whole image"]["pointing"] == baselines["the whole image"]["mean_ciou"] == 0.25
    assert set(baselines) == {"the whole image", "the centre", "mean difference of frames"}
    table = read(asked, results)["predictions.parquet"]
    assert table["clip"].tolist() == ["clip8", "clip9"]
    assert len(table["map"][0]) == table["height"][0] * table["width"][0]
    assert table["response"].tolist() == [max(cells) for cells in table["map"]]
    assert table["second"].between(0, 6).all()
    weights = [
        load_model(results / "runs" / e.id / "seed0" / "checkpoint.pt").state_dict() for e in (before, asked)
    ]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_maps_at_known_places_get_known_scores(results):
    annotate(results)
    asked = experiment("source_localization", before=experiment(), epochs=0, protocol="last")
    data = SourceLocalization.open(asked, results, torch.device("cpu"), None)
    task = SourceLocalization(asked, data, Multisensory)
    assert task.problem() is None
    corner = np.zeros((30, 4, 4))
    corner[:15, :2, :2] = corner[15:, 2:, 2:] = 1.0  # first at the source, then opposite to it
    scores = task._scores({"clip8": corner})
    assert scores["pointing"] == 0.5
    # At 1 of the two instants all pixels of the quarter are found and no other.
    assert scores["ciou_50"] == 0.5
    assert 0.45 < scores["mean_ciou"] < 0.5 + 1e-9


def test_another_clips_sound_is_cut_or_repeated_to_the_same_length(results):
    asked = experiment(
        "source_localization", before=experiment(), epochs=0, protocol="last", pairs="other_clip"
    )
    data = SourceLocalization.open(asked, results, torch.device("cpu"), None)
    task = SourceLocalization(asked, data, Multisensory)
    assert [clip.clip for clip in task.datasets()["test"].clips] == ["clip8", "clip9"]  # short ones, too
    long, short = (task.datasets()["test"][number] for number in (0, 1))
    samples = (long.waveform[0] * 32768).round().long()
    assert torch.equal(samples, torch.arange(12_000) % 6800)  # clip9 has 1.7 s
    assert torch.equal((short.waveform[0] * 32768).round().long(), torch.arange(6800))


def test_without_annotations_there_are_maps_and_no_scores(results):
    (results / "annotations" / "sources.csv").unlink(missing_ok=True)
    before = experiment()
    run(before, results)
    asked = experiment("source_localization", before=before, epochs=0, protocol="last")
    (metrics,) = run(asked, results)
    assert (metrics["status"], metrics["metrics"], metrics["baselines"]) == ("ok", {"last": {}}, {})
    assert read(asked, results)["predictions.parquet"]["clip"].tolist() == ["clip8", "clip9"]


def test_without_a_pretraining_there_is_a_reason(results):
    lonely = experiment("source_localization", epochs=0, protocol="last")
    data = SourceLocalization.open(lonely, results, torch.device("cpu"), None)
    task = SourceLocalization(lonely, replace(data, sources=[]), Multisensory)
    assert "give a `pretraining`" in (task.problem() or "")


def test_maps_of_windows_are_interpolated_over_time_and_averaged_where_windows_overlap():
    torch.manual_seed(0)
    model = Multisensory(dim=8, map_stride=1).eval()
    frames, sound = torch.randint(0, 256, (3, 15, 20, 20), dtype=torch.uint8), torch.randn(2, 6000) / 5
    recipe = Recipe(window=1.0, crop=20)
    with torch.no_grad():
        found = sound_maps(model, frames, sound, recipe, TINY)
        expected, counted = np.zeros_like(found), np.zeros(15)
        for start in (0, 5):  # 15 frames, windows of 10
            own = model.image(frames[None, :, start : start + 10])
            maps = (
                model.activation(model.fuse(own, sound[None, :, 400 * start : 400 * start + 4000]))[0, 0]
                .abs()
                .numpy()
            )
            at = (np.arange(10) + 0.5) / 10 * len(maps) - 0.5
            for y, x in np.ndindex(found.shape[1:]):
                expected[start : start + 10, y, x] += np.interp(at, np.arange(len(maps)), maps[:, y, x])
            counted[start : start + 10] += 1
    assert found.shape == (15, 2, 2)
    np.testing.assert_allclose(found, expected / counted[:, None, None], rtol=1e-4, atol=1e-6)
