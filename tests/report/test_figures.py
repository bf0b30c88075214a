"""Every kind of figure is drawn, says when there is nothing to draw, and comes out the same bytes every time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from avpipe.plan.study import Study
from avpipe.report import figures
from avpipe.report.spec import FigureSpec

from .conftest import BACKGROUND

THETA = {
    "options": {"option": "theta", "heading": "Accuracy (%)"},
    "rows": [{"row": "tacma", "method": "AVIN", "model": "tacma"}],
}
KINDS = [
    ("categories", {}), ("confusion", {}), ("curve", THETA), ("segments", {"options": {"clips": ["a"]}}), ("tsne", {}),
]  # fmt: skip
every_kind = pytest.mark.parametrize(("kind", "keys"), KINDS, ids=[kind for kind, _ in KINDS])


@every_kind
def test_without_any_run_the_figure_says_so(
    kind: str, keys: dict[str, Any], parsed: Callable[..., FigureSpec], study: Study, results: Path,
    monkeypatch: pytest.MonkeyPatch, texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    written: list[Figure] = []
    monkeypatch.setattr(figures, "write_figure", lambda figure, base, title: written.append(figure))
    figures.draw_figure(kind, parsed(kind, **keys), study, results)
    (figure,) = written
    said = " ".join(texts(figure))
    assert "Nothing to draw: no run has" in said
    assert "AVIN: seed 0 no run yet" in said


@every_kind
def test_both_files_are_written_the_same_every_time_and_without_dates(
    kind: str, keys: dict[str, Any], parsed: Callable[..., FigureSpec], study: Study, with_clip: Path,
    write_run: Callable[..., Path],
) -> None:  # fmt: skip
    demo = Study.model_validate(study.model_dump() | {"dataset": {"name": "demo", "kind": "demo"}})
    spec = parsed(kind, **keys)
    clips = {"a": ([0, 0, 1, BACKGROUND], [0, 1, 1, BACKGROUND]), "b": ([0, 1, 1, 1], [0, 1, 0, 1])}
    for experiment in spec.experiments(demo).values():
        folder = write_run(experiment, 0, clips)
        features = np.random.default_rng(0).normal(size=(2, 4, 6))
        np.savez(folder / "embeddings.npz", clips=np.array(["b", "a"]), audio=features, fused=features)
    files = [with_clip / "figures" / f"{kind}.{ending}" for ending in ("svg", "png")]
    figures.draw_figure(kind, spec, demo, with_clip)
    first = [file.read_bytes() for file in files]
    figures.draw_figure(kind, spec, demo, with_clip)
    assert [file.read_bytes() for file in files] == first
    assert b"dc:date" not in first[0]
    assert b"[DEMO] A small figure" in first[0]
    with Image.open(files[1]) as picture:
        assert picture.width > 1000
        assert picture.info["Title"] == "[DEMO] A small figure"
