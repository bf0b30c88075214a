"""Sites that have a video whole, in two files or in pieces, for the tests of yt-dlp's downloads."""

import math
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avpipe.download import Outcome
from avpipe.download.base import WantedClip
from avpipe.media.ffmpeg import ffmpeg_binary
from avpipe.media.normalise import normalise_shard
from avpipe.media.presets import CANONICAL
from avpipe.media.segments import decode_audio, decode_frames, read_shard
from avpipe.plan.source import Source, YouTubeSource

SECONDS = 30
RATE = 1e6
"""Videos an hour: tests do not wait."""
MANIFEST = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT30S"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="v" bandwidth="90000" codecs="avc1.4d400c" width="160" height="120">
<BaseURL>video.mp4</BaseURL><SegmentBase/></Representation></AdaptationSet>
<AdaptationSet mimeType="audio/mp4"><Representation id="a" bandwidth="64000" codecs="mp4a.40.2">
<BaseURL>audio.m4a</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>"""
AUDIO_FILE = MANIFEST[MANIFEST.index('<AdaptationSet mimeType="audio') :]
"""The end of a manifest (DASH) whose audio is one file."""


def source(server: Any, **options: Any) -> Source:
    return YouTubeSource(url=server.url + "/watch/{source}", rate=RATE, **options)


def wanted(name: str = "a", start: float = math.nan, end: float = math.nan) -> WantedClip:
    return WantedClip("clip", name, start, end)


def normalised(folder: Path, path: str, offset: float, start: float, end: float) -> Any:
    """The canonical clip made of a file."""
    folder.mkdir()
    row = {"clip": "clip", "dataset": "test", "split": "none", "source": "a", "start": start, "end": end}
    pd.DataFrame([{**row, "shard": 0, "row": 0}]).to_parquet(folder / "manifest.parquet")
    found = {"clip": "clip", "status": "present", "reason": "", "path": path, "offset": offset}
    pd.DataFrame([found]).to_parquet(folder / "downloads.parquet")
    tables = folder / "downloads.parquet", folder / "manifest.parquet"
    counts = normalise_shard(*tables, 0, CANONICAL, folder / "0.tar", folder / "0.parquet", 60, 1)
    assert counts == {"present": 1}
    return next(iter(read_shard(folder / "0.tar")))


def same_clip(folder: Path, outcome: Outcome, video: Path, start: float, end: float) -> None:
    """The excerpt gives the canonical clip that the whole video gives, to the frame and to the audio sample."""
    part = normalised(folder / "part", str(outcome.path), outcome.offset, start, end)
    whole = normalised(folder / "whole", str(video), 0.0, start, end)
    np.testing.assert_array_equal(decode_frames(part.video, 16), decode_frames(whole.video, 16))
    ours, theirs = decode_audio(part.audio), decode_audio(whole.audio)
    assert np.abs(ours - theirs).max() < 1e-3, "not one sample is displaced: the chirp moves by more"
    assert np.abs(ours[1:] - theirs[:-1]).max() > 1e-2


def gone(request: Any) -> None:
    request.reply(404)


def reset(request: Any) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()


def leading_away(server: Any) -> Callable[[Any], None]:
    """Redirects to an address of the private network."""
    secret = f"http://127.0.0.2:{server.url.rpartition(':')[2]}/secret"
    return lambda request: request.reply(302, Location=secret)


def ffmpeg(*arguments: object) -> None:
    subprocess.run([ffmpeg_binary(), "-v", "error", *map(str, arguments)], check=True)


def in_two_files(server: Any, video: Path, folder: Path) -> None:
    """Serve video and audio apart, as YouTube does."""
    for name, without in (("video.mp4", "-an"), ("audio.m4a", "-vn")):
        path = folder / f"only-{name}"
        ffmpeg("-i", video, without, "-c", "copy", path)
        server.file(f"/watch/{name}", path.read_bytes())
    serve_manifest(server, MANIFEST)


def serve_list(server: Any, names: Sequence[str], seconds: int) -> None:
    """Serve a list (HLS) of pieces."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{seconds}"]
    for name in names:
        lines += [f"#EXTINF:{seconds}.0,", name]
    body = "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()
    server.answers["/watch/a"] = lambda request: request.reply(
        200, body, Content_Type="application/vnd.apple.mpegurl"
    )


def in_pieces(server: Any, video: Path, folder: Path, seconds: int = 15, suffix: str = ".ts") -> int:
    """Serve the video as a list (HLS) of pieces, and say how many there are."""
    where = "-segment_time", seconds, "-segment_format", "mpegts", folder / "%d.ts"
    ffmpeg("-i", video, "-c", "copy", "-f", "segment", *where)
    count = len(list(folder.glob("*.ts")))
    for number in range(count):
        server.file(f"/watch/{number}{suffix}", (folder / f"{number}.ts").read_bytes())
    serve_list(server, [f"{number}{suffix}" for number in range(count)], seconds)
    return count


def in_two_lists(server: Any, video: Path, folder: Path) -> dict[str, list[str]]:
    """Serve the video as two lists (HLS) of pieces of four seconds; gives the names of those of video and audio."""
    folder.mkdir()
    streams = "v:0,agroup:sound,name:video a:0,agroup:sound,name:audio"
    hls = "-f", "hls", "-hls_time", 4, "-hls_playlist_type", "vod", "-master_pl_name", "a.m3u8"
    maps = "-map", "0:v", "-map", "0:a", "-c", "copy"
    ffmpeg("-i", video, *maps, *hls, "-var_stream_map", streams, folder / "%v.m3u8")
    _serve_folder(server, folder)
    lists = (folder / "a.m3u8").read_bytes()
    server.answers["/watch/a"] = lambda request: request.reply(
        200, lists, Content_Type="application/vnd.apple.mpegurl"
    )
    return {name: sorted(path.name for path in folder.glob(f"{name}*.ts")) for name in ("video", "audio")}


def in_a_manifest(
    server: Any, video: Path, folder: Path, *arguments: str, change: Callable[[str], str] = str
) -> list[str]:
    """Serve the video as a manifest (DASH) of pieces of four seconds, video and audio apart; gives the pieces' names."""
    folder.mkdir()
    ffmpeg("-i", video, *(arguments or ("-c", "copy")), "-f", "dash", "-seg_duration", "4", folder / "a.mpd")
    serve_manifest(server, change((folder / "a.mpd").read_text()))
    (folder / "a.mpd").unlink()
    return _serve_folder(server, folder)


def serve_manifest(server: Any, manifest: str) -> None:
    server.answers["/watch/a"] = lambda request: request.reply(
        200, manifest.encode(), Content_Type="application/dash+xml"
    )


def _serve_folder(server: Any, folder: Path) -> list[str]:
    """Serve all of its files, and say what they are called."""
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        server.file(f"/watch/{name}", (folder / name).read_bytes())
    return names
