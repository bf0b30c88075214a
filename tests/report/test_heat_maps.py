"""Heat maps: their colours worked out by hand, videos that play with sound, and which clips a gallery shows."""

import av
import numpy as np
import pytest
from matplotlib.image import imread

from avpipe.media.probe import probe
from avpipe.report.heat_maps import (
    clip_response,
    gallery,
    heat_limits,
    overlay,
    strongest_and_weakest,
    strongest_by_category,
    write_heat_picture,
    write_heat_video,
)
from avpipe.report.style import Heading, figure_style

GREY = np.full((8, 64, 96, 3), 100, np.uint8)
HOT = np.zeros((4, 8, 8))
HOT[:, 1:3, 5:] = -3.0  # the sign does not matter


def test_colours_go_from_half_of_the_97th_percentile_to_it():
    maps = np.arange(101.0).reshape(1, 1, 101)
    assert heat_limits(-maps) == (48.5, 97.0)
    (shown,) = overlay(np.full((1, 1, 101, 3), 100, np.uint8), maps)
    assert (shown[0, :49] == 100).all()  # below 48.5 nothing is drawn
    # 48.5 + 0.2 * 48.5 = 58.2: at 58, heat 0.19588; matplotlib's jet there is entry 50 of 256: (0, 0.2, 1) (its green is 4 (v -
    # 1/8) of v = 50/255 up to rounding), opacity 0.19588.
    heat = (58 - 48.5) / 48.5
    green = 255 * (50 / 255 - 0.125) / 0.25
    assert np.allclose(shown[0, 58], [100 * (1 - heat), 100 + heat * (green - 100), 100 + heat * 155], atol=1)
    # From 97 on: jet's end (0.5, 0, 0) with the highest opacity.
    assert (shown[0, 97:] == np.rint([100 * 0.65 + 127.5 * 0.35, 65, 65])).all()


def test_maps_are_interpolated_between_the_middles_of_their_parts():
    maps = np.array([0.0, 1.0])[:, None, None] * np.ones((2, 2, 2))
    shown = [frame[0, 0].tolist() for frame in overlay(GREY, maps, limits=(0.0, 10.0))]
    # Frame i of 8 is at (i + 0.5) / 4 - 0.5 of the maps 0 and 1: before 0 and after 1 they are held.
    values = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1) / 10
    assert [red for red, _, _ in shown] == np.rint(100 * (1 - values)).tolist()  # jet has no red there


def test_an_even_map_is_no_heat_and_wrong_shapes_are_refused():
    assert (next(overlay(GREY, np.ones((2, 3, 3)))) == GREY[0]).all()
    for frames, maps in ((GREY[0], HOT), (GREY / 255, HOT), (GREY, HOT[0]), (GREY, HOT * np.nan)):
        with pytest.raises(ValueError, match=r"(frames|maps) are \(T, "):
            next(overlay(frames, maps))


def test_a_picture_is_red_where_the_map_is_high(tmp_path):
    write_heat_picture(tmp_path / "a.png", GREY[0], HOT[0])
    picture = imread(tmp_path / "a.png")[..., :3] * 255
    assert picture.shape == (64, 96, 3)
    assert picture[13, 90] == pytest.approx([110, 65, 65], abs=1)
    assert picture[50, 10] == pytest.approx([100, 100, 100])


def test_a_video_plays_with_its_sound(tmp_path):
    sound = 0.3 * np.sin(np.arange(8000) / 20)
    frames = np.full((8, 64, 97, 3), 100, np.uint8)  # an odd width
    write_heat_video(tmp_path / "a.mp4", frames, HOT, 8, np.stack([sound, sound], axis=1), 8000)
    media = probe(tmp_path / "a.mp4")
    assert media.video is not None
    assert media.audio is not None
    assert (media.video.width, media.video.height, media.video.fps) == (98, 64, 8)
    assert (media.audio.sample_rate, media.audio.channels) == (8000, 2)
    assert (media.video.seconds, media.audio.seconds) == pytest.approx((1.0, 1.0), abs=0.2)
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.codec_context.pix_fmt == "yuv420p"
        pictures = [picture.to_ndarray(format="rgb24").astype(int) for picture in container.decode(video)]
    assert len(pictures) == 8
    for picture in pictures:
        assert picture[13, 90, 0] - picture[13, 90, 2] > 30
        assert abs(picture[50, 10, 0] - picture[50, 10, 2]) < 10


def test_a_video_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(ChildProcessError, match=r"ffmpeg cannot write .*a\.mp4"):
        write_heat_video(tmp_path / "a.mp4", GREY, HOT, 0, np.zeros(8000), 8000)
    assert list(tmp_path.iterdir()) == []


def test_clips_are_ranked_by_their_largest_response():
    assert clip_response(HOT) == 3.0
    responses = {"d": 1.0, "b": 5.0, "a": 5.0, "c": 2.0}
    assert strongest_and_weakest(responses, 2) == (["a", "b"], ["d", "c"])
    categories = {"a": "Bell", "b": "Accordion", "c": "Bell", "d": "Bell"}
    assert strongest_by_category(responses, categories, 2) == {"Accordion": ["b"], "Bell": ["a", "c"]}


def test_a_gallery_has_a_row_for_each_category():
    rows = {"Bell": [("a: 5.0", GREY[0]), ("c: 2.0", GREY[1])], "Accordion": [("b: 5.0", GREY[2])]}
    heading = Heading("Strongest responses")
    with figure_style():
        axes = gallery(rows, heading, "Largest response first.").axes
    assert [axis.get_ylabel() for axis in axes] == ["Bell", "", "Accordion", ""]
    assert [axis.get_xlabel() for axis in axes] == ["a: 5.0", "c: 2.0", "b: 5.0", ""]
    assert [len(axis.images) for axis in axes] == [1, 1, 1, 0]
