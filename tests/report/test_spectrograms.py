"""Spectrograms of separated sounds, one line a mixture."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avpipe.report.predictions import NothingToDraw
from avpipe.report.spec import load_figure

from .conftest import Toy, texts

FIGURE = Path(__file__).parents[2] / "workflow" / "figures" / "multisensory_spectrograms.yaml"
NAMES = ("mixture", "on", "true_on", "off", "true_off")


def predictions() -> pd.DataFrame:
    """Three mixtures, of which two have pictures; the levels of the spectrograms are 50, 40, 30, 20, 10 dB."""
    frame = np.full((4, 6, 3), 128, np.uint8).tobytes()
    levels = {name: [50.0 - 10 * i] * (64 * 8) for i, name in enumerate(NAMES)}
    shown = {"frame": frame, "height": 4, "width": 6, **levels}
    return pd.DataFrame([{"clip": f"a{i}", "other": "b", **(shown if i < 2 else {})} for i in range(3)])


@pytest.fixture
def heard(toy: Toy) -> Toy:
    recipes = {"low_rate": {"frame_step": 2}}
    toy.study = toy.study.model_copy(update={"recipes": recipes})
    return toy


def test_a_line_has_the_frame_and_five_spectrograms_on_one_scale(heard: Toy) -> None:
    spec = load_figure(FIGURE, heard.study)
    for row in (0, 1):
        heard.write(spec, row, 0, predictions())
    figure = heard.draw(spec)
    images = [axis.images[0] for axis in figure.axes]
    assert len(images) == 2 * 2 * 6
    assert images[0].get_array().shape == (4, 6, 3)
    assert [float(image.get_array().max()) for image in images[1:6]] == [50, 40, 30, 20, 10]
    assert {image.get_clim() for image in images[1:6]} == {(-10, 50)}
    assert {"on-screen, predicted", "own pictures", "one half hidden", "a1 + b"} <= set(texts(figure))
    assert spec.run_files(heard.study) == {"metrics.json": (0,), "predictions.parquet": (0,)}


def test_without_a_run_it_says_so(heard: Toy) -> None:
    with pytest.raises(NothingToDraw):
        heard.draw(load_figure(FIGURE, heard.study))
