"""The gallery of clips with the strongest and the weakest response, and of those of each category."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from avpipe.report.sources import heated
from avpipe.report.spec import load_figure

from .conftest import CATEGORIES, SHADES, Toy, texts

FIGURES = Path(__file__).parents[2] / "workflow" / "figures"
LEFT = [1.0, 0.0, 1.0, 0.0]
"""A map of 2 x 2 cells, high on the left."""


@pytest.fixture
def heard(toy_with_clips: Toy) -> Toy:
    """A study with the recipe that the figures' networks are first trained by."""
    study = toy_with_clips.study.model_copy(update={"recipes": {"low_rate": {"frame_step": 2}}})
    return replace(toy_with_clips, study=study)


def found(**responses: float) -> pd.DataFrame:
    """Predictions: clip -> its response, at second 3.5."""
    rows = [
        {"clip": clip, "response": r, "second": 3.5, "height": 2, "width": 2, "map": (np.array(LEFT) * r).tolist()}
        for clip, r in responses.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def spec_of(name: str, toy: Toy, **options: Any) -> Any:
    spec = load_figure(FIGURES / f"multisensory_{name}.yaml", toy.study)
    return spec.model_copy(update={"options": spec.options.model_copy(update=options)})


def drawn(toy: Toy, name: str, **options: Any) -> tuple[list[str], list[str]]:
    """The names of the lines, and what stands below the pictures."""
    spec = spec_of(name, toy, **options)
    toy.write(spec, 0, 0, found(a=2.0, mute=0.5))
    axes = toy.draw(spec).axes
    return (
        [axis.get_ylabel() for axis in axes if axis.get_ylabel()],
        [axis.get_xlabel() for axis in axes if axis.images],
    )


def test_the_map_lies_over_the_frame_of_its_time(heard: Toy) -> None:
    (row,) = found(a=2.0).to_dict("records")
    lines = heated({"a": row}, heard.results, heard.study.media.preset, {"one": ["a"]})
    ((name, picture),) = lines["one"]
    assert name == "2"
    grey = picture[:, -8:].astype(int)
    assert abs(grey - SHADES[3]).max() <= 2  # the right half has no heat
    # The left half is as red as it gets: 0.65 times the grey 75, 0.35 times jet's end (127.5, 0, 0).
    assert picture[32, 2] == pytest.approx([93, 48, 48], abs=2)


def test_the_strongest_and_the_weakest_are_lines(heard: Toy) -> None:
    assert drawn(heard, "sources", clips=1) == (["strongest", "weakest"], ["2", "0.5"])


def test_the_strongest_of_each_category_are_lines(heard: Toy) -> None:
    events = pd.DataFrame({"clip": ["a", "mute"], "category": [CATEGORIES[0], CATEGORIES[1]]})
    events.to_parquet(heard.results / "events.parquet")
    lines, below = drawn(heard, "categories")
    assert [" ".join(name.split()) for name in lines] == list(CATEGORIES)
    assert below == ["2", "0.5"]


def test_missing_runs_are_named(heard: Toy) -> None:
    spec = spec_of("sources", heard, seed=1)
    with pytest.raises(Exception, match="Nothing to draw"):
        heard.draw(spec)
    heard.write(spec, 0, 1, found(a=2.0))
    assert spec.run_files(heard.study) == {"metrics.json": (1,), "predictions.parquet": (1,)}
    assert "Seed 1." in " ".join(texts(heard.draw(spec)))
