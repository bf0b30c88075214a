"""Every kind of figure is written as svg and png, and says so if there is nothing to draw."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from avpipe.plan.study import Study
from avpipe.report import figures

from .conftest import (
    BACKGROUND,
    NO_RUN,
    TASKS,
    Toy,
    figure_of,
    grounding_table,
    localized,
    parsing_table,
    texts,
)

THETA = {
    "options": {"option": "theta", "heading": "Accuracy (%)"},
    "rows": [{"row": "tacma", "method": "TACMA", "model": "tacma"}],
}
KEYS: dict[str, dict[str, Any]] = {
    "categories": {}, "confusion": {}, "curve": THETA, "fscores": {}, "grounding": {}, "parsed": {}, "tsne": {},
    "segments": {"options": {"clips": ["a"]}},
}  # fmt: skip
TABLES: dict[str, pd.DataFrame] = {
    "localization": localized(
        a=([0, 0, 1, BACKGROUND], [0, 1, 1, BACKGROUND]), b=([0, 1, 1, 1], [0, 1, 0, 1])
    ),
    "parsing": parsing_table({("a", m, "Bell"): ("###.......", "..##......") for m in ("audio", "visual")}),
    "pretraining": grounding_table(a=[0] * 5 + [5] * 5),
}
"""Task -> predictions."""
every_kind = pytest.mark.parametrize("kind", KEYS)


@every_kind
def test_without_any_run_the_figure_says_so(kind: str, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Figure] = []
    monkeypatch.setattr(figures, "write_figure", lambda figure, base, title: written.append(figure))
    spec = figure_of(kind, **KEYS[kind])
    figures.draw_figure(kind, spec, toy.study, toy.results)
    said = " ".join(texts(written[0]))
    assert "Nothing to draw: no run has" in said
    assert f"Missing: {spec.rows[-1].method}: seed 0 {NO_RUN}" in said


@every_kind
def test_svg_and_png_are_written_with_title_and_notice(kind: str, toy_with_clips: Toy) -> None:
    toy, spec = toy_with_clips, figure_of(kind, **KEYS[kind])
    demo = Study.model_validate(toy.study.model_dump() | {"dataset": {"name": "demo", "kind": "demo"}})
    for row in range(len(spec.rows)):
        folder = toy.write(spec, row, 0, TABLES[TASKS.get(kind, "localization")])
        features = np.random.default_rng(0).normal(size=(2, 4, 6))
        np.savez(folder / "embeddings.npz", clips=np.array(["b", "a"]), audio=features, fused=features)
    figures.draw_figure(kind, spec, demo, toy.results)
    assert b"[DEMO] A small figure" in (toy.results / "figures" / f"{kind}.svg").read_bytes()
    with Image.open(toy.results / "figures" / f"{kind}.png") as picture:
        assert picture.width > 1000
        assert picture.info["Title"] == "[DEMO] A small figure"
