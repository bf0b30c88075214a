"""The rendered demo dataset: real files, real formats, the same bytes for the same seed."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avpipe.datasets import read_annotations
from avpipe.datasets.ave import read_ave
from avpipe.datasets.base import AnnotationError
from avpipe.datasets.demo import read_demo, render_demo
from avpipe.datasets.demo_frames import render_frames
from avpipe.datasets.demo_plan import CLASSES, SECONDS, ClipPlan, Interval, plan_clip
from avpipe.datasets.demo_sounds import render_sound

pytestmark = pytest.mark.slow  # as a whole, so that a worker renders the clips once
CLIPS = 8
PLANS = [plan_clip(index, seed=0) for index in range(CLIPS)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    render_demo(out, clips=CLIPS, workers=1)
    return out


def test_a_seed_gives_the_same_bytes_for_any_number_of_processes(rendered, tmp_path):
    render_demo(tmp_path, clips=CLIPS, workers=2)
    assert contents(tmp_path) == contents(rendered)


def test_another_seed_gives_other_clips():
    assert plan_clip(0, seed=1).id != plan_clip(0, seed=0).id
    assert plan_clip(0, seed=1).audio != plan_clip(0, seed=0).audio


def test_more_clips_do_not_change_the_first_ones(rendered, tmp_path):
    shutil.copytree(rendered, tmp_path, dirs_exist_ok=True)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "source").iterdir()}
    render_demo(tmp_path, clips=CLIPS + 1, workers=1)
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "source").iterdir()}
    assert len(after) == CLIPS + 1
    assert before.items() <= after.items()


def test_fewer_clips_than_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 8 clips"):
        render_demo(tmp_path, clips=7)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.id)
def test_a_clip_is_ten_seconds_of_h264_and_aac(rendered, plan):
    with av.open(str(rendered / "source" / f"{plan.id}.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height, video.average_rate) == (plan.width, plan.height, plan.frame_rate)
        assert (audio.rate, audio.channels) == (plan.sample_rate, plan.channels)
        frames = sum(1 for _ in container.decode(video))
        container.seek(0)
        samples = sum(frame.samples for frame in container.decode(audio))
    assert frames == SECONDS * plan.frame_rate
    assert samples / plan.sample_rate == pytest.approx(SECONDS, abs=2 * 1024 / plan.sample_rate)  # AAC frames


def test_its_files_are_valid_ave_files(rendered):
    found = read_ave(rendered / "annotations" / "ave")
    assert found.categories == tuple(kind.name for kind in CLASSES)
    assert found.issues["clip"].tolist() == [plan.id for plan in PLANS if not plan.event.seconds]
    assert set(found.issues["code"]) <= {"zero_length_event"}
    assert found.clips["split"].tolist() == [plan.split for plan in PLANS]
    events = found.events[["clip", "category", "onset", "offset"]].to_records(index=False).tolist()
    with_event = [p for p in PLANS if p.event.seconds]
    assert events == [
        (p.id, CLASSES[p.event.category].name, p.event.onset, p.event.offset) for p in with_event
    ]
    categories = (rendered / "annotations" / "ave" / "categories.txt").read_text().splitlines()
    assert tuple(categories) == found.categories


def test_the_demo_is_both_formats_together(rendered):
    found = read_annotations("demo", rendered / "annotations")
    assert set(found.issues["code"]) <= {"zero_length_event"}
    events = set(
        found.events[["clip", "modality", "category", "onset", "offset"]]
        .dropna()
        .to_records(index=False)
        .tolist()
    )
    timed = {
        (plan.id, modality, CLASSES[i.category].name, i.onset, i.offset)
        for plan in PLANS
        for modality, intervals in (("audio", plan.audio), ("visual", plan.visual))
        for i in intervals
        if plan.split != "train"  # LLP has no timed labels for training
    }
    assert {event for event in events if event[1] != "audiovisual"} == timed
    assert {event[0] for event in events if event[1] == "audiovisual"} == {
        plan.id for plan in PLANS if plan.event.seconds
    }


def test_weak_labels_are_all_events_of_either_modality(rendered):
    events = read_demo(rendered / "annotations").events
    weak = events[events["modality"] == "video"].groupby("clip")["category"].agg(set).to_dict()
    assert weak == {p.id: {CLASSES[i.category].name for i in (*p.audio, *p.visual)} for p in PLANS}


def test_formats_that_disagree_are_refused(rendered, tmp_path):
    shutil.copytree(rendered / "annotations", tmp_path, dirs_exist_ok=True)
    ave = tmp_path / "ave"
    train, test = (ave / "trainSet.txt").read_text(), (ave / "testSet.txt").read_text()
    (ave / "trainSet.txt").write_text(test)
    (ave / "testSet.txt").write_text(train)
    with pytest.raises(AnnotationError, match="render the demo again"):
        read_demo(tmp_path)


def test_killed_while_rendering_every_clip_is_whole_or_absent(rendered, tmp_path):
    code = f"from pathlib import Path; from avpipe.datasets.demo import render_demo; render_demo(Path({str(tmp_path)!r}), clips={CLIPS}, workers=1)"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("source/*.mp4"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    whole = contents(rendered)
    there = {name: content for name, content in contents(tmp_path).items() if not name.endswith(".tmp")}
    assert 2 <= len(there) < len(whole)
    assert there.items() <= whole.items()
    render_demo(tmp_path, clips=CLIPS, workers=1)
    assert whole.items() <= contents(tmp_path).items()


def shown_alone(category: int, **changes: Any) -> ClipPlan:
    """The same clip with one class, audio and visual all the time, and nothing else."""
    always = (Interval(category, 0, SECONDS),)
    plan = replace(PLANS[0], audio=always, visual=always, occluded=frozenset(), masked=frozenset())
    return replace(plan, **changes)


def test_an_occluder_hides_the_object():
    """Two calm classes, drawn at the same place: frames differ, but in the occluded second."""
    one, other = (shown_alone(category, occluded=frozenset({4})) for category in (0, 2))
    difference = np.array(
        [
            np.abs(a.astype(int) - b).max()
            for a, b in zip(render_frames(one), render_frames(other), strict=True)
        ]
    ).reshape(SECONDS, one.frame_rate)
    assert (difference[[3, 5]] > 50).all()
    assert (difference[4, 1:-1] == 0).all()  # the occluder comes and goes within a frame or so


def test_noise_drowns_the_sound():
    with_noise = [render_sound(shown_alone(category, masked=frozenset({4}))) for category in (0, 2)]
    seconds = [sound[0].reshape(SECONDS, -1) for sound in with_noise]
    difference = (seconds[0] - seconds[1]).std(axis=1) / seconds[0].std(axis=1)
    assert (difference[[3, 5]] > 0.5).all()
    assert difference[4] < 0.2


def test_a_sound_is_loud_during_its_event():
    always = shown_alone(3)
    partly = replace(always, audio=(Interval(3, 2, 6),))
    loudness = render_sound(partly)[0].reshape(SECONDS, -1).std(axis=1)
    assert loudness[2:6].min() > max(loudness[:2].max(), loudness[6:].max())


def test_waveforms_stay_in_range():
    for plan in PLANS:
        waveform = render_sound(plan)
        assert waveform.shape == (plan.channels, SECONDS * plan.sample_rate)
        assert waveform.dtype == np.float32
        assert np.abs(waveform).max() <= 1
