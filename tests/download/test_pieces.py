"""Videos that a site has in pieces, by a list (HLS) or a manifest (DASH): exact excerpts, and no hole is taken for the whole."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avpipe.clips import Status
from avpipe.download import Outcome
from avpipe.media.segments import decode_frames
from tests.download.excerpts import (
    AUDIO_FILE,
    gone,
    in_a_manifest,
    in_pieces,
    in_two_files,
    in_two_lists,
    normalised,
    reset,
    same_clip,
)

Fetch = Callable[..., Outcome]
WHOLE = (math.nan, math.nan)


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [(gone, Status.UNAVAILABLE, "404"), (reset, Status.NETWORK_ERROR, "Connection reset")],
)
def test_a_piece_of_a_list_that_is_not_there_fails_the_excerpt(
    fetch: Fetch,
    server: Any,
    video: Path,
    tmp_path: Path,
    answer: Callable[[Any], None],
    status: Status,
    words: str,
) -> None:
    in_pieces(server, video, tmp_path, 4)
    server.answers["/watch/3.ts"] = answer
    outcome = fetch(5, 25)
    assert outcome.status is status, outcome
    assert words in outcome.reason
    assert list(tmp_path.glob("clip*")) == []


def test_a_piece_of_a_list_that_breaks_off_fails_the_excerpt(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    in_pieces(server, video, tmp_path)
    body = (tmp_path / "0.ts").read_bytes()
    server.file("/watch/0.ts", body, cut=len(body) // 2)
    outcome = fetch(5, 15)
    assert outcome.status is Status.NETWORK_ERROR, outcome
    server.file("/watch/0.ts", body)
    assert fetch(5, 15).status is Status.PRESENT


@pytest.mark.parametrize("lost", ["video", "audio"])
def test_of_two_lists_the_one_does_not_hide_the_others_end(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path, lost: str
) -> None:
    for name in in_two_lists(server, video, tmp_path / "pieces")[lost][2:]:
        server.answers[f"/watch/{name}"] = gone
    outcome = fetch(3, 15)
    assert outcome.status is Status.UNAVAILABLE, outcome


@pytest.mark.parametrize(("suffix", "excerpt"), [(".ts", True), (".jpg", False)])
def test_a_list_gives_the_clip_that_all_its_pieces_give(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path, suffix: str, excerpt: bool
) -> None:
    """ffmpeg refuses pieces with some names; then yt-dlp downloads all of them."""
    count = in_pieces(server, video, tmp_path, 4, suffix)
    outcome = fetch(13.3, 23.3)
    assert outcome.status is Status.PRESENT, outcome.reason
    assert (outcome.offset > 0) == excerpt
    whole = tmp_path / "whole.ts"
    whole.write_bytes(b"".join((tmp_path / f"{number}.ts").read_bytes() for number in range(count)))
    same_clip(tmp_path, outcome, whole, 13.3, 23.3)


@pytest.mark.parametrize(
    ("interval", "numbers"),
    [((13.3, 23.3), range(4, 8)), ((0.0, 8.0), range(1, 4)), ((19.5, 30.0), range(5, 9))],
)
def test_of_the_pieces_that_a_manifest_names_those_of_the_interval_come_and_give_its_clip(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path, interval: tuple[float, float], numbers: range
) -> None:
    in_a_manifest(server, video, tmp_path / "pieces")
    outcome = fetch(*interval)
    assert outcome.status is Status.PRESENT, outcome.reason
    pieces = {f"chunk-stream{stream}-0000{number}.m4s" for stream in (0, 1) for number in numbers}
    asked = {path.rpartition("/")[2] for path, _ in server.asked}
    assert asked == {"a", "init-stream0.m4s", "init-stream1.m4s"} | pieces
    same_clip(tmp_path, outcome, video, *interval)


def test_a_manifest_of_vp9_and_opus_pieces_gives_an_excerpt_too(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    encoded = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 100 -c:a libopus -dash_segment_type webm"
    names = in_a_manifest(server, video, tmp_path / "pieces", *encoded.split())
    assert names[0].endswith(".webm")
    excerpt = fetch(13.3, 23.3)
    assert excerpt.status is Status.PRESENT, excerpt.reason
    assert 11.9 <= excerpt.offset <= 12.0
    clips = (
        normalised(tmp_path / name, str(path), offset, 13.3, 23.3)
        for name, path, offset in (("ours", excerpt.path, excerpt.offset), ("theirs", video, 0.0))
    )
    ours, theirs = (decode_frames(clip.video, 16).astype(int) for clip in clips)
    apart = [np.abs(ours[2:-2] - theirs[2 + by : 158 + by]).mean() for by in (-1, 0, 1)]
    assert apart[1] < apart[0] / 2, "coded anew, but the same frames, not those before or after"
    assert apart[1] < apart[2] / 2


def test_where_a_manifests_times_are_not_those_of_its_pieces_the_whole_video_comes(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    def twice_as_fast(manifest: str) -> str:
        return manifest.replace('timescale="12800"', 'timescale="25600"').replace(
            '"44100" init', '"88200" init'
        )

    in_a_manifest(server, video, tmp_path / "pieces", change=twice_as_fast)
    outcome = fetch(13.3, 23.3)
    assert outcome.status is Status.PRESENT, outcome.reason
    assert outcome.offset == 0
    same_clip(tmp_path, outcome, video, 13.3, 23.3)


def test_video_in_pieces_and_audio_in_a_file_stay_together(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    in_two_files(server, video, tmp_path)

    def with_audio_in_a_file(manifest: str) -> str:
        return manifest[: manifest.index('<AdaptationSet id="1"')] + AUDIO_FILE

    in_a_manifest(server, video, tmp_path / "pieces", change=with_audio_in_a_file)
    outcome = fetch(13.3, 23.3)
    assert outcome.status is Status.PRESENT, outcome.reason
    same_clip(tmp_path, outcome, video, 13.3, 23.3)


@pytest.mark.parametrize(
    ("interval", "lost"),
    [
        ((5, 25), "init-stream0.m4s"),
        ((5, 25), "chunk-stream1-00004.m4s"),
        (WHOLE, "chunk-stream0-00004.m4s"),
    ],
)
def test_a_manifests_piece_that_is_not_there_fails_the_clip(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path, interval: tuple[float, float], lost: str
) -> None:
    in_a_manifest(server, video, tmp_path / "pieces")
    server.answers[f"/watch/{lost}"] = gone
    outcome = fetch(*interval)
    assert outcome.path is None, outcome
    assert list(tmp_path.glob("clip*")) == []
