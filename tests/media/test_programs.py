"""ffmpeg is found where it is installed, and only if it can encode H.264."""

from pathlib import Path

import pytest

from avpipe.media import ffmpeg
from avpipe.media.ffmpeg import ffmpeg_binary, ffmpeg_version


def test_there_is_an_ffmpeg_with_libx264() -> None:
    assert ffmpeg._encodes_x264(ffmpeg_binary())
    assert ffmpeg_version()


def test_an_ffmpeg_on_the_path_without_libx264_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\necho ' V..... mpeg4 '\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    ffmpeg_binary.cache_clear()
    try:
        assert ffmpeg_binary() != str(tmp_path / "ffmpeg")
    finally:
        ffmpeg_binary.cache_clear()
