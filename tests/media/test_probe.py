"""What is in a file is found without trusting it."""

import numpy as np
import pytest
from PIL import Image

from avpipe.media.probe import ProbeError, probe


def test_sizes_rates_and_times_are_those_of_the_file(media, tmp_path):
    sound = np.zeros((2, 44_100 * 2))
    source = media.write(
        tmp_path / "a.mkv",
        times=media.times(25, 3, start=1.0),
        size=(80, 60),
        sound=sound,
        sample_rate=44_100,
    )
    found = probe(source)
    assert found.container == "matroska,webm"
    assert found.video is not None
    assert found.audio is not None
    assert (found.video.width, found.video.height, found.video.rotation) == (80, 60, 0)
    assert found.video.fps == pytest.approx(25, abs=0.01)
    assert found.video.start == pytest.approx(1.0, abs=0.002)
    assert (found.audio.sample_rate, found.audio.channels) == (44_100, 2)
    assert found.duration == pytest.approx(4.0, abs=0.05)


def test_times_count_from_the_first_time_stamp(shared):
    found = probe(shared / "data/clips/edge/non_zero_start.mp4")  # its first time stamp is 8.333 s
    assert found.video is not None
    assert found.video.start == pytest.approx(0, abs=1e-3)
    assert found.video.end == pytest.approx(0.4, abs=1e-3)
    assert found.video.width == 199, "200 stored pixels of 224:225"


def test_of_several_streams_the_largest_picture_and_the_best_sound_count(shared):
    found = probe(shared / "data/clips/nasa_13013.mp4")  # 320x180 and 480x270, 8 kHz and 16 kHz
    assert found.video is not None
    assert found.audio is not None
    assert (found.video.index, found.video.width) == (3, 480)
    assert (found.audio.index, found.audio.sample_rate) == (4, 16_000)


def test_a_rotated_video_has_its_displayed_size(shared):
    found = probe(shared / "data/clips/edge/rotated_90.mov")
    assert found.video is not None
    assert (found.video.width, found.video.height, found.video.rotation) == (320, 568, 270)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF\0\0\0\0AVI ", b"\x1aE\xdf\xa3" * 10, b"#EXTM3U\na.ts\n", b"\0" * 4096]
)
def test_files_that_are_no_media_raise_a_probe_error(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ProbeError, match="not a media file"):
        probe(tmp_path / "a.mp4")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WebP", "JPEG"])
def test_a_picture_under_a_videos_name_is_called_a_picture(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    several = {} if kind == "JPEG" else {"save_all": True, "append_images": frames[1:]}
    frames[0].save(tmp_path / "a.mp4", format=kind, **several)
    with pytest.raises(ProbeError, match=f"a {kind} picture"):
        probe(tmp_path / "a.mp4")


def test_a_playlist_under_a_videos_name_is_called_a_playlist(tmp_path):
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:10,\na.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ProbeError, match="playlist"):
        probe(tmp_path / "a.mp4")


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "absent.mp4")
