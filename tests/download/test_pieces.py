"""Videos that a site has in pieces, by a list (HLS) or a manifest (DASH): what came is kept, and no hole is taken for the whole."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avpipe.download import Status
from avpipe.download.youtube import YouTubeFetcher
from avpipe.media.segments import decode_frames
from tests.download.excerpts import (
    ON_ITS_WAY,
    Dripping,
    differing,
    gone,
    in_a_manifest,
    in_pieces,
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


def test_of_two_lists_pictures_and_sound_stay_together(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_two_lists(server, video, tmp_path / "pieces")
    outcome = fetcher().fetch(wanted("a", 13.3, 23.3), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    same_clip(tmp_path, outcome, video, 13.3, 23.3)


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


def test_pieces_that_a_manifest_names_give_the_excerpt_of_the_whole_video(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    names = in_a_manifest(server, video, tmp_path / "pieces")
    assert len(names) == 2 * (1 + 8), "what all begin with, and eight pieces, of pictures and of sound"
    outcome = fetcher().fetch(wanted("a", 13.3, 23.3), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    assert outcome.offset > 0
    asked = {path for path, _ in server.asked}
    assert "/watch/chunk-stream0-00003.m4s" not in asked, (
        "ffmpeg reads the first two, and goes to the excerpt"
    )
    same_clip(tmp_path, outcome, video, 13.3, 23.3)


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
    outcome = fetcher().fetch(wanted("a", 13.3, 23.3), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    assert 8 - 0.2 <= outcome.offset <= 12.3
    clip = normalised(tmp_path / "part", str(outcome.part), outcome.offset, 13.3, 23.3)
    assert len(decode_frames(clip.video, 16)) == 160


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
    assert site.again() <= 3 * 2 * ON_ITS_WAY, "two files, three kills; without what was kept 450,000"
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
