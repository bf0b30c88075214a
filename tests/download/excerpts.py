"""Videos, and sites that have them whole, in two files or in pieces, for the tests of yt-dlp's downloads."""

import math
import multiprocessing
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avpipe.download import Outcome
from avpipe.download.base import WantedClip
from avpipe.media.ffmpeg import ffmpeg_binary
from avpipe.media.normalise import normalise_shard
from avpipe.media.segments import decode_audio, decode_frames, read_shard
from avpipe.plan.source import Source

SECONDS = 30
RATE = 1e6
"""Videos an hour: tests do not wait."""


def source(server: Any, **options: Any) -> Source:
    return Source(kind="youtube", url=server.url + "/watch/{source}", rate=RATE, **options)


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
    counts = normalise_shard(*tables, 0, "canonical", folder / "0.tar", folder / "0.parquet", 60, 1)
    assert counts == {"present": 1}
    return next(iter(read_shard(folder / "0.tar")))


def same_clip(folder: Path, outcome: Outcome, video: Path, start: float, end: float) -> None:
    """The excerpt gives the canonical clip that the whole video gives."""
    part = normalised(folder / "part", str(outcome.part), outcome.offset, start, end)
    whole = normalised(folder / "whole", str(video), 0.0, start, end)
    np.testing.assert_array_equal(decode_frames(part.video, 16), decode_frames(whole.video, 16))
    ours, theirs = decode_audio(part.audio), decode_audio(whole.audio)
    assert np.abs(ours - theirs).max() < 1e-3, "not one sample is displaced: the chirp moves by more"
    assert np.abs(ours[1:] - theirs[:-1]).max() > 1e-2


MANIFEST = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT30S"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="v" bandwidth="90000" codecs="avc1.4d400c" width="160" height="120">
<BaseURL>pictures.mp4</BaseURL><SegmentBase/></Representation></AdaptationSet>
<AdaptationSet mimeType="audio/mp4"><Representation id="a" bandwidth="64000" codecs="mp4a.40.2">
<BaseURL>sound.m4a</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>"""


def in_two_files(server: Any, video: Path, folder: Path) -> None:
    """Serve pictures and sound apart, as YouTube does."""
    for name, without in (("pictures.mp4", "-an"), ("sound.m4a", "-vn")):
        command = [
            ffmpeg_binary(),
            "-v",
            "error",
            "-i",
            str(video),
            without,
            "-c",
            "copy",
            str(folder / name),
        ]
        subprocess.run(command, check=True)
        server.file(f"/watch/{name}", (folder / name).read_bytes())
    serve_manifest(server, MANIFEST)


def differing(server: Any, request: Any, body: bytes) -> None:
    """Answer as one of several servers that do not know of each other's ETags."""
    server.file("/other", body, version=f'"{len(server.asked)}"')
    server.answers["/other"](request)


def spans(kept: Path) -> list[tuple[int, int]]:
    """First byte and number of bytes of what has come of a file."""
    return [(int(path.name), path.stat().st_size) for path in kept.glob("*/[0-9]*") if path.stat().st_size]


class Dripping:
    """A server that sends files piece by piece, and remembers which bytes of which file it sent."""

    def __init__(self, version: str | None) -> None:
        self.version = version
        self.brought: list[tuple[str, int]] = []  # (file, number of the byte)

    def serve(self, server: Any, path: str, body: bytes) -> None:
        server.file(path, body, version=self.version)
        page = server.answers[path]

        def drip(request: Any) -> None:
            if "-" not in (request.headers.get("Range") or ""):
                page(request)  # yt-dlp looks at what it is
                return
            begin, _, stop = request.headers["Range"].removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(stop or len(body)), len(body) - 1)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            request.send_header("Content-Length", str(last + 1 - first))
            if self.version:
                request.send_header("ETag", self.version)
            request.end_headers()
            for place in range(first, last + 1, 20_000):
                end = min(place + 20_000, last + 1)
                request.wfile.write(body[place:end])
                self.brought.extend((path, number) for number in range(place, end))
                time.sleep(0.01)

        server.answers[path] = drip

    def killed(self, fetch: Callable[[], object], count: int) -> bool:
        """Whether `fetch`, in a process, was killed after some more bytes had been sent."""
        process = multiprocessing.get_context("fork").Process(target=fetch)
        process.start()
        before = len(self.brought)
        while process.is_alive() and len(self.brought) < before + count:
            time.sleep(0.002)
        alive = process.is_alive()
        process.kill()
        process.join()
        return alive

    def again(self) -> int:
        """How many bytes were sent more than once."""
        return len(self.brought) - len(set(self.brought))


ON_ITS_WAY = 100_000
"""Bytes that a process which is killed may have been sent, and not kept."""


def gone(request: Any) -> None:
    request.reply(404)


def reset(request: Any) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()


def leading_away(server: Any, asked: list[str]) -> Callable[[Any], None]:
    """Redirects to an address of the private network, which remembers in `asked` that it was asked."""
    server.answers["/secret"] = lambda request: asked.append(request.path)
    secret = f"http://127.0.0.2:{server.url.rpartition(':')[2]}/secret"
    return lambda request: request.reply(302, Location=secret)


def serve_list(server: Any, names: Sequence[str], seconds: int) -> None:
    """Serve a list of pieces, as HLS has it."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{seconds}"]
    for name in names:
        lines += [f"#EXTINF:{seconds}.0,", name]
    body = "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()
    server.answers["/watch/a"] = lambda request: request.reply(
        200, body, Content_Type="application/vnd.apple.mpegurl"
    )


def in_pieces(server: Any, video: Path, folder: Path, seconds: int = 15) -> int:
    """Serve the video as a list of pieces, and say how many there are."""
    command = [ffmpeg_binary(), "-v", "error", "-i", str(video), "-c", "copy", "-f", "segment"]
    command += ["-segment_time", str(seconds), "-segment_format", "mpegts", str(folder / "%d.ts")]
    subprocess.run(command, check=True)
    names = sorted((path.name for path in folder.glob("*.ts")), key=lambda name: int(name[:-3]))
    for name in names:
        server.file(f"/watch/{name}", (folder / name).read_bytes(), version=f'"{name}"')
    serve_list(server, names, seconds)
    return len(names)


def in_two_lists(server: Any, video: Path, folder: Path) -> dict[str, list[str]]:
    """Serve the video as two lists (HLS) of pieces of four seconds; gives the names of those of pictures and sound."""
    folder.mkdir()
    command = [ffmpeg_binary(), "-v", "error", "-i", str(video), "-map", "0:v", "-map", "0:a", "-c", "copy"]
    command += ["-f", "hls", "-hls_time", "4", "-hls_playlist_type", "vod", "-master_pl_name", "a.m3u8"]
    command += ["-var_stream_map", "v:0,agroup:sound,name:pictures a:0,agroup:sound,name:sound"]
    subprocess.run([*command, str(folder / "%v.m3u8")], check=True)
    _serve_folder(server, folder)
    lists = (folder / "a.m3u8").read_bytes()
    server.answers["/watch/a"] = lambda request: request.reply(
        200, lists, Content_Type="application/vnd.apple.mpegurl"
    )
    return {name: sorted(path.name for path in folder.glob(f"{name}*.ts")) for name in ("pictures", "sound")}


def in_a_manifest(
    server: Any, video: Path, folder: Path, *arguments: str, change: Callable[[str], str] = str
) -> list[str]:
    """Serve the video as a manifest (DASH) of pieces of four seconds, pictures and sound apart; gives the pieces' names."""
    folder.mkdir()
    command = [ffmpeg_binary(), "-v", "error", "-i", str(video), *(arguments or ("-c", "copy")), "-f", "dash"]
    subprocess.run([*command, "-seg_duration", "4", str(folder / "a.mpd")], check=True)
    serve_manifest(server, change((folder / "a.mpd").read_text()))
    (folder / "a.mpd").unlink()
    return _serve_folder(server, folder)


def serve_manifest(server: Any, manifest: str) -> None:
    server.answers["/watch/a"] = lambda request: request.reply(
        200, manifest.encode(), Content_Type="application/dash+xml"
    )


def in_pieces_of_both(server: Any, video: Path, folder: Path) -> None:
    """Serve the video as a manifest (DASH) whose pieces hold both pictures and sound."""
    folder.mkdir()
    command = [ffmpeg_binary(), "-v", "error", "-i", str(video), "-c", "copy", "-f", "hls", "-hls_time", "4"]
    command += ["-hls_playlist_type", "vod", "-hls_segment_type", "fmp4", str(folder / "list.m3u8")]
    subprocess.run(command, check=True)
    (folder / "list.m3u8").unlink()
    names = sorted(_serve_folder(server, folder), key=lambda name: (len(name), name))
    pieces = "".join(f'<SegmentURL media="{name}"/>' for name in names if name != "init.mp4")
    kind = '<AdaptationSet mimeType="video/mp4"><Representation id="v" bandwidth="90000" codecs="avc1.4d400c, mp4a.40.2"'
    listed = f'<SegmentList timescale="1" duration="4"><Initialization sourceURL="init.mp4"/>{pieces}</SegmentList>'
    head = MANIFEST[: MANIFEST.index("<AdaptationSet")]
    serve_manifest(server, f"{head}{kind}>{listed}</Representation></AdaptationSet></Period></MPD>")


def _serve_folder(server: Any, folder: Path) -> list[str]:
    """Serve all of its files, and say what they are called."""
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        server.file(f"/watch/{name}", (folder / name).read_bytes(), version=f'"{name}"')
    return names
