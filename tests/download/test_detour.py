"""Where the relay serves what: by names that ffmpeg accepts."""

import pytest

from avpipe.download.detour import _suffix


@pytest.mark.parametrize(
    ("url", "suffix"),
    [
        ("http://site.example/0.ts", ".ts"),
        ("http://site.example/0.ts?v=1.0", ".ts"),
        ("http://site.example/get.php?file=0.ts", ".ts"),
        ("http://site.example/list.m3u8?sig=abc.def", ".m3u8"),
        ("http://site.example/get.php?file=0", ".php"),
        ("http://site.example/piece", ""),
    ],
)
def test_a_piece_keeps_the_suffix_by_which_ffmpeg_knows_its_kind(url: str, suffix: str) -> None:
    assert _suffix(url) == suffix
