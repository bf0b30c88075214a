"""The demo dataset: rendered video files, with annotation files in the formats of AVE and of LLP.

`demo_plan` decides the content of a clip, `demo_frames` and `demo_sounds` render it. Each clip is annotated twice: AVE's
files have its audio-visual event, LLP's files all audio and visual events, distractors included.
"""

import io
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from avpipe.datasets.demo_frames import render_frames
from avpipe.datasets.demo_plan import CLASSES, SECONDS, ClipPlan, Interval, plan_clip
from avpipe.datasets.demo_sounds import render_sound
from avpipe.files import whole_file, write_text
from avpipe.progress import Progress

if TYPE_CHECKING:
    from avpipe.datasets.base import Annotations

MP4 = {"fflags": "+bitexact"}
X264 = {"preset": "ultrafast", "crf": "27", "threads": "1"}
AAC = {"aac_coder": "fast"}
AAC_FRAME = 1024


def render_demo(out: Path, *, clips: int = 240, seed: int = 0, workers: int | None = None) -> None:
    """Render the demo dataset below `out`.

    Writes `source/{id}.mp4` (H.264 and AAC, ten seconds), then `annotations/ave/` (Annotations.txt, trainSet.txt,
    valSet.txt, testSet.txt, categories.txt) and `annotations/llp/` (AVVP_*.csv). The same seed gives the same bytes. A
    larger number of clips does not change the first ones, and files with the right content are not written again.

    Args:
        out: folder, made if missing.
        clips: how many; from 56 on, every class is in every split.
        seed: of all random numbers.
        workers: processes; default: one a core.

    Raises:
        ValueError: if there are fewer clips than classes.
        OutputError: if `out` cannot be written.
    """
    if clips < len(CLASSES):
        raise ValueError(f"the demo needs at least {len(CLASSES)} clips, one of every class; found {clips}")
    plans = [plan_clip(index, seed) for index in range(clips)]
    for folder in ("source", "annotations"):
        for unfinished in (out / folder).glob("**/.*.tmp"):  # of a run that was killed
            unfinished.unlink(missing_ok=True)
    workers = min(workers or _cores(), clips)
    render, progress = partial(_render_clip, folder=out / "source"), Progress("render demo", clips, "clips")
    if workers == 1:
        for plan in plans:
            render(plan)
            progress.advance()
    else:
        # A Pool, because its processes end when this one is killed; those of an executor do not.
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for _ in pool.imap_unordered(render, plans, chunksize=4):
                progress.advance()
    _write_ave(out / "annotations" / "ave", plans)
    _write_llp(out / "annotations" / "llp", plans)


def _cores() -> int:
    """The cores that this process may use; macOS only tells how many the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _render_clip(plan: ClipPlan, folder: Path) -> None:
    path = folder / f"{plan.id}.mp4"
    content = _encode(plan)
    if not (path.is_file() and path.read_bytes() == content):
        with whole_file(path) as temporary:
            temporary.write_bytes(content)


def _encode(plan: ClipPlan) -> bytes:
    """An mp4 file. One thread and no version strings, so that the bytes are always the same."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options=MP4) as container:
        video = container.add_stream("libx264", rate=plan.frame_rate, options=X264)
        video.width, video.height, video.pix_fmt = plan.width, plan.height, "yuv420p"
        layout = "mono" if plan.channels == 1 else "stereo"
        audio = container.add_stream("aac", rate=plan.sample_rate, layout=layout, options=AAC)
        audio.bit_rate = 48_000 * plan.channels
        for image in render_frames(plan):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        waveform = render_sound(plan)
        for start in range(0, waveform.shape[1], AAC_FRAME):
            samples = np.ascontiguousarray(waveform[:, start : start + AAC_FRAME])
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = plan.sample_rate, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return file.getvalue()


def read_demo(annotations: Path) -> "Annotations":
    """Read the folder `annotations` that `render_demo` wrote.

    Clips, splits and audio-visual events come from AVE's files; audio, visual and weak events from LLP's.

    Raises:
        AnnotationError: for a missing file or a malformed line, or if the two formats name different clips.
    """
    import pandas as pd

    from avpipe.datasets.ave import read_ave
    from avpipe.datasets.base import AnnotationError, Annotations
    from avpipe.datasets.llp import read_parsing_files

    ave = read_ave(annotations / "ave")
    labels = {category.replace(" ", "_"): category for category in ave.categories}
    llp = read_parsing_files(annotations / "llp", list(labels), "AVVP_eval_audio.csv")
    splits = [dict(zip(one.clips["clip"], one.clips["split"], strict=True)) for one in (ave, llp)]
    if splits[0] != splits[1]:
        raise AnnotationError(f"{annotations}: ave and llp differ in clips or splits; render the demo again")
    parsing_events = llp.events.assign(category=llp.events["category"].map(labels))
    events = pd.concat([ave.events, parsing_events], ignore_index=True)
    issues = pd.concat([ave.issues, llp.issues], ignore_index=True)
    return Annotations(ave.categories, ave.clips, events, issues)


def _write_ave(folder: Path, plans: Sequence[ClipPlan]) -> None:
    """AVE's files: for each clip the category, id, quality and whole seconds of its audio-visual event."""

    def lines(chosen: Iterable[ClipPlan]) -> str:
        rows = [(p.event, p.id) for p in chosen]
        return "".join(f"{CLASSES[e.category].name}&{id}&good&{e.onset}&{e.offset}\n" for e, id in rows)

    write_text(folder / "categories.txt", "".join(f"{kind.name}\n" for kind in CLASSES))
    for split in ("train", "val", "test"):
        write_text(folder / f"{split}Set.txt", lines(p for p in plans if p.split == split))
    write_text(folder / "Annotations.txt", lines(plans))


def _write_llp(folder: Path, plans: Sequence[ClipPlan]) -> None:
    """LLP's files: the classes of every clip; for val and test also the audio and visual events."""
    parts = {split: [p for p in plans if p.split == split] for split in ("train", "val", "test")}
    dense = [*parts["val"], *parts["test"]]
    write_text(folder / "AVVP_train.csv", _weak_labels(parts["train"]))
    write_text(folder / "AVVP_val_pd.csv", _weak_labels(parts["val"]))
    write_text(folder / "AVVP_test_pd.csv", _weak_labels(parts["test"]))
    write_text(folder / "AVVP_eval_audio.csv", _dense_labels(dense, lambda plan: plan.audio))
    write_text(folder / "AVVP_eval_visual.csv", _dense_labels(dense, lambda plan: plan.visual))
    write_text(folder / "AVVP_dataset_full.csv", _weak_labels([*parts["train"], *dense]))


def _llp_name(plan: ClipPlan) -> str:
    return f"{plan.id}_0_{SECONDS}"


def _llp_label(category: int) -> str:
    return CLASSES[category].name.replace(" ", "_")


def _weak_labels(plans: Iterable[ClipPlan]) -> str:
    rows = ["filename\tevent_labels"]
    for plan in plans:
        labels = dict.fromkeys(_llp_label(interval.category) for interval in (*plan.audio, *plan.visual))
        rows.append(f"{_llp_name(plan)}\t{','.join(labels)}")
    return "\n".join(rows) + "\n"


def _dense_labels(plans: Iterable[ClipPlan], intervals: Callable[[ClipPlan], Iterable[Interval]]) -> str:
    rows = ["filename\tonset\toffset\tevent_labels"]
    for plan in plans:
        for interval in intervals(plan):
            label = _llp_label(interval.category)
            rows.append(f"{_llp_name(plan)}\t{interval.onset}\t{interval.offset}\t{label}")
    return "\n".join(rows) + "\n"
