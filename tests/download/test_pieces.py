"""Videos that a site has in pieces, by a list (HLS) or a manifest (DASH): what came is kept, and no hole is taken for the whole."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avpipe.download import Status
from avpipe.download.youtube import YouTubeFetcher
from avpipe.media.probe import probe
from avpipe.media.segments import decode_audio, decode_frames
from tests.download.excerpts import (
    MANIFEST,
    ON_ITS_WAY,
    Dripping,
    differing,
    gone,
    in_a_manifest,
    in_pieces,
    in_pieces_of_both,
    in_two_files,
    in_two_lists,
    leading_away,
    normalised,
    reset,
    same_clip,
    serve_list,
    wanted,
)


@pytest.mark.parametrize("interval", [(13.0, 23.0), (math.nan, math.nan)])
def test_kill_9_among_the_pieces_of_a_list_and_none_comes_twice(
    fetcher: Callable[..., YouTubeFetcher],
    server: Any,
    video: Path,
    tmp_path: Path,
    interval: tuple[float, float],
) -> None:
    site = Dripping('"1"')
    in_pieces(server, video, tmp_path)
    sizes = [(tmp_path / name).stat().st_size for name in ("0.ts", "1.ts")]
    for name in ("0.ts", "1.ts"):
        site.serve(server, f"/watch/{name}", (tmp_path / name).read_bytes())
    for count in (sizes[0] // 3, sizes[0] // 3):
        assert site.killed(lambda: fetcher().fetch(wanted("a", *interval), tmp_path / "clip"), count)
    outcome = fetcher().fetch(wanted("a", *interval), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    assert len(site.brought) >= sum(sizes) // 2
    assert site.again() <= 2 * 2 * ON_ITS_WAY, "two connections, two kills"
    undisturbed = fetcher().fetch(wanted("a", *interval), tmp_path / "undisturbed")
    assert outcome.sha256 == undisturbed.sha256


def test_a_piece_that_breaks_off_leaves_no_hole_and_the_rest_comes_later(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_pieces(server, video, tmp_path)
    body = (tmp_path / "0.ts").read_bytes()
    server.file("/watch/0.ts", body, cut=len(body) // 2)
    cut, asked = server.answers["/watch/0.ts"], []

    def dying(request: Any) -> None:
        asked.append(request.headers.get("Range"))
        cut(request) if len(asked) == 1 else reset(request)

    server.answers["/watch/0.ts"] = dying
    outcome = fetcher().fetch(wanted("a", 5, 15), tmp_path / "clip")
    assert outcome.status is Status.NETWORK_ERROR, outcome
    server.file("/watch/0.ts", body)
    assert fetcher().fetch(wanted("a", 5, 15), tmp_path / "clip").status is Status.PRESENT


@pytest.mark.parametrize("interval", [(5, 25), (math.nan, math.nan)])
@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [(gone, Status.UNAVAILABLE, "404"), (reset, Status.NETWORK_ERROR, "onnection")],
)
def test_a_piece_that_does_not_come_leaves_no_hole(
    fetcher: Callable[..., YouTubeFetcher],
    server: Any,
    video: Path,
    tmp_path: Path,
    interval: tuple[float, float],
    answer: Callable[[Any], None],
    status: Status,
    words: str,
) -> None:
    in_pieces(server, video, tmp_path, 4)
    server.answers["/watch/3.ts"] = answer
    outcome = fetcher().fetch(wanted("a", *interval), tmp_path / "clip")
    assert outcome.status is status, outcome
    assert words in outcome.reason
    assert list(tmp_path.glob("clip*.part")) == []


def test_a_piece_after_the_excerpt_that_ffmpeg_asks_for_in_advance_may_be_gone(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_pieces(server, video, tmp_path, 4)
    server.answers["/watch/3.ts"] = gone
    outcome = fetcher().fetch(wanted("a", 2, 7), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome
    assert server.count("/watch/3.ts") == 1, "else this shows nothing"


def test_a_whole_video_of_two_lists_keeps_pictures_and_sound_together(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_two_lists(server, video, tmp_path / "pieces")
    outcome = fetcher().fetch(wanted(), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    media = probe(Path(str(outcome.part)))
    assert media.video is not None
    assert media.audio is not None
    earlier = (
        1024 / 44100
    )  # an AAC frame that the decoder needs comes before the first sample, also in the lists
    assert media.video.start - media.audio.start == pytest.approx(earlier, abs=1e-4)


@pytest.mark.parametrize("lost", ["pictures", "sound"])
def test_of_two_lists_the_one_does_not_hide_the_others_end(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path, lost: str
) -> None:
    for name in in_two_lists(server, video, tmp_path / "pieces")[lost][2:]:
        server.answers[f"/watch/{name}"] = gone
    outcome = fetcher().fetch(wanted("a", 3, 15), tmp_path / "clip")
    assert outcome.status is Status.UNAVAILABLE, outcome


@pytest.mark.parametrize("moved", [False, True])
def test_pieces_of_two_lists_are_never_mixed(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path, moved: bool
) -> None:
    count = in_pieces(server, video, tmp_path, 4)
    server.answers["/watch/5.ts"] = lambda request: request.reply(503)
    assert fetcher().fetch(wanted(), tmp_path / "clip").status is Status.NETWORK_ERROR
    assert list(tmp_path.glob("clip*.ranges/*/0")), "else this shows nothing"
    bodies = [(tmp_path / f"{number}.ts").read_bytes() for number in range(count)]
    if moved:  # the list begins one piece later
        bodies = bodies[1:]
        serve_list(server, [f"{number}.ts" for number in range(1, count)], 4)
        server.file("/watch/5.ts", bodies[4], version='"5"')
    else:  # all pieces are others, of the same length
        bodies = [body[::-1] for body in bodies]
        for number, body in enumerate(bodies):
            server.file(f"/watch/{number}.ts", body, version=f'"new {number}"')
    outcome = fetcher().fetch(wanted(), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome
    assert Path(str(outcome.part)).read_bytes() == b"".join(bodies)


def test_a_list_whose_servers_differ_gives_the_video_all_the_same(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_pieces(server, video, tmp_path, 15)
    for name in ("0.ts", "1.ts"):
        body = (tmp_path / name).read_bytes()
        server.answers[f"/watch/{name}"] = lambda request, body=body: differing(server, request, body)
    outcome = fetcher().fetch(wanted(), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome
    expected = b"".join((tmp_path / name).read_bytes() for name in ("0.ts", "1.ts"))
    assert Path(str(outcome.part)).read_bytes() == expected


def test_a_video_in_pieces_comes_too_through_ffmpegs_own_requests(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_pieces(server, video, tmp_path)
    outcome = fetcher().fetch(wanted("a", 13, 23), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    assert server.count("/watch/1.ts") >= 1


def test_a_piece_may_not_be_redirected_into_the_private_network_either(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_pieces(server, video, tmp_path)
    asked: list[str] = []
    for name in ("0.ts", "1.ts"):
        server.answers[f"/watch/{name}"] = leading_away(server, asked)
    outcome = fetcher().fetch(wanted("a", 13, 23), tmp_path / "clip")
    assert asked == []
    assert outcome.status is Status.REFUSED_URL
    assert "127.0.0.2" in outcome.reason


@pytest.mark.parametrize(
    ("interval", "numbers"),
    [((13.3, 23.3), range(4, 8)), ((0.0, 8.0), range(1, 4)), ((19.5, 30.0), range(5, 9))],
)
def test_of_the_pieces_that_a_manifest_names_those_of_the_interval_come_and_give_its_clip(
    fetcher: Callable[..., YouTubeFetcher],
    server: Any,
    video: Path,
    tmp_path: Path,
    interval: tuple[float, float],
    numbers: range,
) -> None:
    in_a_manifest(server, video, tmp_path / "pieces")
    outcome = fetcher().fetch(wanted("a", *interval), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    pieces = {f"chunk-stream{stream}-0000{number}.m4s" for stream in (0, 1) for number in numbers}
    asked = {path.rpartition("/")[2] for path, _ in server.asked}
    assert asked == {"a", "init-stream0.m4s", "init-stream1.m4s"} | pieces
    same_clip(tmp_path, outcome, video, *interval)


def test_a_manifest_of_vp9_and_opus_pieces_gives_an_excerpt_too(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    encoded = (
        "-c:v",
        "libvpx-vp9",
        "-deadline",
        "realtime",
        "-cpu-used",
        "8",
        "-g",
        "100",
        "-c:a",
        "libopus",
    )
    names = in_a_manifest(server, video, tmp_path / "pieces", *encoded, "-dash_segment_type", "webm")
    assert names[0].endswith(".webm")
    excerpt = fetcher().fetch(wanted("a", 13.3, 23.3), tmp_path / "clip")
    assert excerpt.status is Status.PRESENT, excerpt.reason
    assert 11.9 <= excerpt.offset <= 12.0
    clips = (
        normalised(tmp_path / name, str(path), offset, 13.3, 23.3)
        for name, path, offset in (("ours", excerpt.part, excerpt.offset), ("theirs", video, 0.0))
    )
    ours, theirs = (decode_frames(clip.video, 16).astype(int) for clip in clips)
    apart = [np.abs(ours[2:-2] - theirs[2 + by : 158 + by]).mean() for by in (-1, 0, 1)]
    assert apart[1] < apart[0] / 2, "coded anew, but the same frames, not those before or after"
    assert apart[1] < apart[2] / 2


def test_pictures_and_sound_in_the_same_pieces_both_come(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_pieces_of_both(server, video, tmp_path / "pieces")
    outcome = fetcher().fetch(wanted("a", 13.3, 23.3), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    clip = normalised(tmp_path / "ours", str(outcome.part), outcome.offset, 13.3, 23.3)
    whole = normalised(tmp_path / "theirs", str(video), 0.0, 13.3, 23.3)
    assert len(decode_frames(clip.video, 16)) == 160
    # ffmpeg lets such pieces begin at 0.08 s, two frames, for the pictures that are coded out of order.
    ours, theirs = decode_audio(clip.audio)[1280:], decode_audio(whole.audio)[:-1280]
    assert np.abs(ours - theirs).max() < 0.02, "one sample further it would be ten times that"


def test_where_a_manifests_times_are_not_those_of_its_pieces_the_whole_video_comes(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    def twice_as_fast(manifest: str) -> str:
        return manifest.replace('timescale="12800"', 'timescale="25600"').replace(
            '"44100" init', '"88200" init'
        )

    in_a_manifest(server, video, tmp_path / "pieces", change=twice_as_fast)
    outcome = fetcher().fetch(wanted("a", 13.3, 23.3), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    assert outcome.offset == 0
    same_clip(tmp_path, outcome, video, 13.3, 23.3)


def test_the_end_of_the_sound_says_nothing_of_the_pictures(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "apart").mkdir()
    in_two_files(server, video, tmp_path / "apart")
    sound = MANIFEST[MANIFEST.index('<AdaptationSet mimeType="audio') :]

    def with_sound_in_a_file(manifest: str) -> str:
        return manifest[: manifest.index('<AdaptationSet id="1"')] + sound

    in_a_manifest(server, video, tmp_path / "pieces", change=with_sound_in_a_file)
    outcome = fetcher().fetch(wanted("a", 13.3, 23.3), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    same_clip(tmp_path, outcome, video, 13.3, 23.3)
    for number in (5, 6, 7):
        server.answers[f"/watch/chunk-stream0-0000{number}.m4s"] = gone
    assert fetcher().fetch(wanted("a", 13.3, 23.3), tmp_path / "again").status is Status.UNAVAILABLE


@pytest.mark.parametrize("interval", [(13.3, 23.3), (math.nan, math.nan)])
def test_kill_9_among_the_pieces_of_a_manifest_and_none_comes_twice(
    fetcher: Callable[..., YouTubeFetcher],
    server: Any,
    video: Path,
    tmp_path: Path,
    interval: tuple[float, float],
) -> None:
    site = Dripping('"1"')
    names = in_a_manifest(server, video, tmp_path / "pieces")
    bodies = {f"/watch/{name}": (tmp_path / "pieces" / name).read_bytes() for name in names}
    for path, body in bodies.items():
        site.serve(server, path, body)
    for _ in range(3):
        assert site.killed(lambda: fetcher().fetch(wanted("a", *interval), tmp_path / "clip"), 150_000)
    outcome = fetcher().fetch(wanted("a", *interval), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    assert site.again() <= 3 * ON_ITS_WAY, "one connection, three kills; without what was kept 450,000"
    undisturbed = fetcher().fetch(wanted("a", *interval), tmp_path / "undisturbed")
    assert outcome.sha256 == undisturbed.sha256


@pytest.mark.parametrize("interval", [(5, 25), (math.nan, math.nan)])
@pytest.mark.parametrize("lost", ["init-stream0.m4s", "chunk-stream0-00004.m4s", "chunk-stream1-00004.m4s"])
def test_a_manifests_piece_that_does_not_come_leaves_no_hole(
    fetcher: Callable[..., YouTubeFetcher],
    server: Any,
    video: Path,
    tmp_path: Path,
    interval: tuple[float, float],
    lost: str,
) -> None:
    in_a_manifest(server, video, tmp_path / "pieces")
    server.answers[f"/watch/{lost}"] = gone
    outcome = fetcher().fetch(wanted("a", *interval), tmp_path / "clip")
    assert outcome.status is Status.UNAVAILABLE, outcome
    assert "404" in outcome.reason
    assert list(tmp_path.glob("clip*.part")) == []
