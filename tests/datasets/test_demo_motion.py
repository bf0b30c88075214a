"""The rendered dataset demo_motion: what is seen and heard coincides, and nothing else tells the answers."""

import io
from dataclasses import replace
from itertools import chain
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from avpipe.cli import app
from avpipe.datasets import RENDERERS, clip_seconds, read_annotations
from avpipe.datasets.demo_motion import (
    CATEGORIES,
    FEWEST,
    FRAME_RATE,
    MOTIONS,
    SAMPLE_RATE,
    SIDE,
    SOUNDS,
    SPLITS,
    Events,
    MotionPlan,
    encode_motion,
    plan_motion,
    render_demo_motion,
    render_motion_frames,
    render_motion_sound,
)
from avpipe.plan import registry

PLANS = [plan_motion(index, seed=0) for index in range(240)]
SIX = PLANS[: len(CATEGORIES)]
"""A clip of each category."""
Box = tuple[float, float, float, float]


def decoded(plan: MotionPlan) -> tuple[np.ndarray, np.ndarray]:
    """The mp4's frames, (n, SIDE, SIDE, 3), and its sound, the mean of both channels, (samples,)."""
    content = encode_motion(plan)
    with av.open(io.BytesIO(content)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(io.BytesIO(content)) as container:
        pieces = list(container.decode(audio=0))
    assert pieces[0].pts == 0
    return np.stack(frames).astype(float), np.concatenate([p.to_ndarray() for p in pieces], axis=1).mean(0)


def cut(frames: np.ndarray, box: Box) -> np.ndarray:
    """The part of frames inside a box."""
    x0, y0, x1, y1 = (round(edge * SIDE) for edge in box)
    return frames[:, y0:y1, x0:x1]


def inside(plan: MotionPlan, events: Events, margin: float) -> list[tuple[float, bool]]:
    """Time and kind (True: swell) of the events at least `margin` seconds from the clip's ends."""
    pairs = zip(events.times.tolist(), events.swells.tolist(), strict=True)
    return [(time, swell) for time, swell in pairs if margin <= time < plan.seconds - margin]


@pytest.mark.parametrize("plan", SIX, ids=lambda plan: CATEGORIES[plan.category])
def test_events_are_seen_in_the_box_within_a_frame_of_their_time(plan):
    frames, _ = decoded(plan)
    for shape in (plan.sounding, plan.silent):
        part = cut(frames, shape.box)
        jump = np.abs(np.diff(part, axis=0, prepend=part[:1])).mean(axis=(1, 2, 3))
        level = shape.events.level(np.arange(8 * len(frames)) / (8 * FRAME_RATE)).reshape(-1, 8).max(axis=1)
        moved = np.abs(part - part[level.argmin()]).mean(axis=(1, 2, 3))
        seen = inside(plan, shape.events, margin=0.25)
        assert len(seen) >= 3
        for time, swell in seen:
            now = int(time * FRAME_RATE)
            change = moved if swell else jump  # a strike is the largest jump, a swell is furthest from rest
            assert abs(change[now - 3 : now + 4].argmax() - 3) <= 1, (time, swell)
            assert moved[now] > 4  # of 255, on average over the box


@pytest.mark.parametrize("plan", SIX, ids=lambda plan: CATEGORIES[plan.category])
def test_strikes_are_heard_within_40_ms_of_their_time(plan):
    hop = SAMPLE_RATE // 200  # 5 ms
    _, sound = decoded(plan)
    energy = np.square(sound[: len(sound) // hop * hop]).reshape(-1, hop).mean(axis=1)
    totals = np.concatenate([[0], np.cumsum(energy)])
    edges = np.arange(6, len(energy) - 6)
    rise = totals[edges + 6] - 2 * totals[edges] + totals[edges - 6]  # 30 ms after less 30 ms before
    for time, swell in inside(plan, plan.sounding.events, margin=0.25):
        if not swell:
            near = np.abs(edges * hop / SAMPLE_RATE - time) < 0.15
            onset = edges[near][rise[near].argmax()] * hop / SAMPLE_RATE
            assert abs(onset - time) <= 0.04, time


def test_swells_are_loudest_at_their_time():
    for plan in SIX:
        sound = render_motion_sound(replace(plan, off_screen=None)).mean(axis=0)
        for time, swell in inside(plan, plan.sounding.events, margin=0.3):
            if swell:
                start = round((time - 0.2) * SAMPLE_RATE)
                parts = np.square(sound[start : start + round(0.4 * SAMPLE_RATE) // 4 * 4]).reshape(4, -1)
                before, *middle, after = parts.mean(axis=1)
                assert min(middle) > max(before, after)


def test_the_silent_shape_moves_and_is_not_heard():
    for plan in SIX:
        still = Events(np.zeros(0), np.zeros(0, bool))
        without = replace(plan, silent=replace(plan.silent, events=still))
        pairs = zip(render_motion_frames(plan), render_motion_frames(without), strict=True)
        difference = np.stack([np.abs(a.astype(int) - b).max(axis=2) for a, b in pairs])
        assert cut(difference, plan.silent.box).max() > 100
        assert (difference.max(axis=(1, 2)) > 50).sum() >= 10  # frames
        assert (render_motion_sound(plan) == render_motion_sound(without)).all()


def test_without_distractors_the_same_shape_is_alone_and_alone_is_heard():
    for plan in PLANS[:12]:
        alone = plan_motion(plan.index, seed=0, distractors=False)
        assert alone.off_screen is None
        frames, others = (np.stack(list(render_motion_frames(each))) for each in (alone, plan))
        assert (cut(frames, plan.sounding.box) == cut(others, plan.sounding.box)).all()
        assert (cut(frames, plan.silent.box) == cut(frames, plan.silent.box)[0]).all()
        same_sound = (render_motion_sound(alone) == render_motion_sound(plan)).all()
        assert same_sound == (plan.off_screen is None)


def test_nothing_moves_outside_the_two_boxes():
    for plan in SIX:
        frames = np.stack(list(render_motion_frames(plan))).astype(int)
        outside = np.ones((SIDE, SIDE), bool)
        for x0, y0, x1, y1 in (plan.sounding.box, plan.silent.box):
            rows, columns = [slice(int(a * SIDE), int(b * SIDE) + 1) for a, b in ((y0, y1), (x0, x1))]
            outside[rows, columns] = False
        assert (frames[:, outside] == frames[0, outside]).all()


def test_boxes_are_in_the_frame_and_apart():
    boxes = np.array([[shape.box for shape in (plan.sounding, plan.silent)] for plan in PLANS])
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (boxes[..., 2:] - boxes[..., :2] > 0.19).all()
    left, right = np.sort(boxes[..., [0, 2]], axis=1).transpose(1, 0, 2)
    assert (left[:, 1] <= 0.5).all()
    assert (right[:, 0] >= 0.5).all()
    on_the_left = (boxes[:, 0, 0] < 0.5).mean()
    assert 0.4 < on_the_left < 0.6


def test_events_have_no_period_and_no_two_sources_share_times():
    sources = [
        source.times
        for plan in PLANS
        for source in (plan.sounding.events, plan.silent.events, plan.off_screen)
        if source
    ]
    gaps = np.concatenate([np.diff(times) for times in sources])
    assert gaps.min() >= 0.6 - 1e-9
    assert gaps.max() <= 1.8 + 1e-9
    # uniform from a to b: standard deviation (b - a) / sqrt(12), mean (a + b) / 2
    assert gaps.std() / gaps.mean() == pytest.approx(1.2 / 12**0.5 / 1.2, rel=0.03)
    pairs = np.concatenate([np.stack([times[1:-1] - times[:-2], np.diff(times[1:])]) for times in sources], 1)
    assert abs(np.corrcoef(pairs)[0, 1]) < 0.05  # a gap does not tell the next one
    lists = [tuple(times) for times in sources]
    assert len(set(lists)) == len(lists)
    everywhere = np.array([time for plan in PLANS for time in plan.heard(plan.sounding.events)])
    in_second = np.histogram(everywhere, bins=6, range=(0, 6))[0]
    assert in_second / 240 == pytest.approx(1 / 1.2, rel=0.1)  # the clip's ends are like its middle


def test_every_window_of_two_seconds_has_an_event_and_most_have_two():
    starts = np.arange(0, 4.01, 0.25)
    times = [plan.sounding.events.times for plan in PLANS]
    counts = np.array([np.diff(np.searchsorted(own, [s, s + 2]))[0] for own in times for s in starts])
    assert (counts >= 2).mean() > 0.5
    assert counts.min() >= 1


def test_neither_motion_nor_sound_alone_tells_the_category():
    """Of 60 clips, the best guess from the motion is right in 1 of 2 cases, from the sound in 1 of 3, in every split."""
    assert len(CATEGORIES) == len(MOTIONS) * len(SOUNDS) == 6
    for number in (1, 2, 3):
        rows = [(p.split(number), p.sounding.motion, p.sound, CATEGORIES[p.category]) for p in PLANS[:60]]
        table = pd.DataFrame(rows, columns=["split", "motion", "sound", "category"])
        assert table["split"].value_counts().to_dict() == {"train": 42, "test": 12, "val": 6}
        for _, own in table.groupby("split"):
            for seen, share in (("motion", 1 / 2), ("sound", 1 / 3)):
                counts = pd.crosstab(own[seen], own["category"])
                assert counts.max(axis=1).sum() / len(own) == pytest.approx(share)
            assert (own["category"] == own["motion"] + own["sound"]).all()
    assert all(plan.silent.motion == plan.sounding.motion for plan in PLANS)


def test_a_quarter_of_the_clips_have_an_off_screen_source():
    assert 0.18 < np.mean([plan.off_screen is not None for plan in PLANS]) < 0.32


def test_the_channel_on_the_side_of_the_shape_is_louder():
    for plan in (replace(plan, off_screen=None) for plan in SIX):
        left, right = render_motion_sound(plan).std(axis=1)
        x = plan.sounding.x
        assert (left > right) == (x < 0.5)
        assert left / right == pytest.approx((1 - 0.3 * x) / (1 - 0.3 * (1 - x)), rel=0.03)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("motion")
    render_demo_motion(out, clips=FEWEST, seconds=3, workers=1)
    return out


@pytest.mark.slow
def test_a_seed_gives_the_same_bytes_and_more_clips_do_not_change_the_first_ones(rendered, tmp_path):
    render_demo_motion(tmp_path, clips=FEWEST + 6, seconds=3, workers=2)
    few, more = contents(rendered), contents(tmp_path)
    assert len(more) == len(few) + 6
    for name, content in few.items():
        assert more[name].startswith(content), name
    assert encode_motion(plan_motion(0, seed=1, seconds=3)) != few["source/HopBell/0000.mp4"]


def test_the_lists_of_each_split_share_no_clip_and_have_every_category(rendered):
    found = read_annotations("demo_motion", rendered / "annotations")
    assert found.issues.empty
    assert found.categories == CATEGORIES
    assert found.clips["split"].value_counts().to_dict() == {"train": 12, "test": 6, "val": 6}
    assert found.clips["clip"].is_unique
    assert all((rendered / "source" / source).is_file() for source in found.clips["source"])
    joined = found.clips.merge(found.events, on="clip")
    assert joined.groupby("split")["category"].nunique().to_dict() == dict.fromkeys(
        ("train", "test", "val"), 6
    )
    assert (joined["category"] == joined["source"].str.split("/").str[0]).all()
    tests = [
        set(read_annotations("ucf101", rendered / "annotations", split=number).clips.query("split == 'test'")["clip"])
        for number in (1, 2, 3)
    ]  # fmt: skip
    assert len(set(chain(*tests))) == sum(map(len, tests))


def test_three_splits_test_different_clips_however_many_there_are():
    blocks = [{block for block in range(10) if SPLITS[(block + n) % 10] == "test"} for n in range(3)]
    assert [len(block) for block in blocks] == [2, 2, 2]
    assert len(set.union(*blocks)) == 6


def test_sources_lists_every_event_that_is_heard_and_boxes_of_shapes_only(rendered):
    table = pd.read_csv(rendered / "annotations" / "sources.csv")
    assert list(table.columns) == ["clip", "time", "x0", "y0", "x1", "y1", "on_screen"]
    clips = read_annotations("demo_motion", rendered / "annotations").clips
    plans = {f"{CATEGORIES[i % 6]}~{i:04d}~mp4": plan_motion(i, 0, 3) for i in range(FEWEST)}
    assert set(plans) == set(clips["clip"]) == set(table["clip"])
    for clip, own in table.groupby("clip"):
        plan = plans[str(clip)]
        seen, unseen = own[own["on_screen"] == 1], own[own["on_screen"] == 0]
        assert seen["time"].tolist() == plan.heard(plan.sounding.events).tolist()
        assert unseen["time"].tolist() == (plan.heard(plan.off_screen).tolist() if plan.off_screen else [])
        box = seen[["x0", "y0", "x1", "y1"]].to_numpy()
        assert box == pytest.approx(np.tile(plan.sounding.box, (len(seen), 1)), abs=1e-4)
        assert unseen[["x0", "y0", "x1", "y1"]].isna().all(axis=None)
        assert own["time"].between(0, 3, inclusive="left").all()


def test_the_length_is_an_option_and_presets_know_it(rendered):
    assert clip_seconds("demo_motion", {}) == 6
    assert clip_seconds("demo_motion", {"seconds": 3}) == 3
    with av.open(str(rendered / "source" / "HopBell" / "0000.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.frames, video.average_rate, audio.rate, audio.channels) == (45, 15, 22050, 2)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("demo_motion", "{clips: 23}", "clips: demo_motion needs at least 24"),
        ("demo_motion", "{seconds: 2}", "seconds: a clip of demo_motion has at least 3, found 2"),
        ("demo_motion", "{seconds: 4.5}", "option seconds is of type int, not 4.5"),
        ("demo_motion", "{clip: 30}", "the dataset demo_motion has no option 'clip'; did you mean 'clips'"),
        ("demo", "{seconds: 6}", "the dataset demo has no option 'seconds'"),
        ("demo_moton", "{}", "unknown demo 'demo_moton'; did you mean 'demo_motion'"),
    ],
)
def test_a_wrong_option_of_the_command_is_named(tmp_path, kind, options, message):
    done = CliRunner().invoke(
        app, ["datasets", "demo", "--kind", kind, "--out", str(tmp_path), "--options", options]
    )
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())


def test_a_study_takes_the_renderers_options():
    motion = {"clips", "seed", "seconds", "distractors"}
    for kind, names in (("demo", {"clips", "seed"}), ("demo_motion", motion)):
        assert set(registry.options_of(RENDERERS[kind])) == names | {"workers"}
