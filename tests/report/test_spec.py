"""A figure's file says what is drawn and which files of which runs it needs; its mistakes are named."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.spec import CurveFigure, FigureSpec, load_figure, parse_figure

THETA = {"option": "theta", "heading": "Accuracy (%)"}


def thetas(*values: float | None) -> list[dict[str, Any]]:
    """A row of TACMA for each value; None: the row does not say."""
    return [
        {"row": f"row{i}", "method": "TACMA", "model": "tacma", "options": {} if v is None else {"theta": v}}
        for i, v in enumerate(values)
    ]


def test_reading_figures_loads_nothing_heavy() -> None:
    probe = "import sys, avpipe.report.spec; print({'torch', 'pandas', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_figure_has_one_setting(study: Study, parsed: Callable[..., FigureSpec]) -> None:
    experiments = parsed("categories", setting="weakly-supervised").experiments(study)
    assert list(experiments) == [("avel", "weakly-supervised"), ("avin", "weakly-supervised")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "pie"},
            "bars: kind: found 'pie'; known: categories, confusion, curve, events, fscores, grounding",
        ),
        ({"options": {"limits": 3}}, "options.limits: no such key; did you mean 'limit'"),
        ({"kind": "segments", "options": {"limit": 3}}, "options.limit: no such key"),
        ({"kind": "confusion", "options": {"limit": 3}}, "options: no such key"),
        (
            {"rows": [{"row": "dam", "method": "DAM", "gap": "none"}]},
            "row 'dam': gap: a figure cannot show it",
        ),
        (
            {"rows": [{"row": "avel", "method": "A", "model": "avel", "published": {"supervised": 7}}]},
            "row 'avel': published: a figure cannot show it",
        ),
        ({"kind": "curve"}, "options: is missing"),
        ({"kind": "curve", "options": THETA}, "row 'avel': options: the figure's options.option: "),
        (
            {"kind": "curve", "options": THETA | {"option": "encoder"}, "rows": thetas(None)},
            "row 'row0': options: encoder is no number",
        ),
        (
            {"kind": "curve", "options": THETA, "rows": thetas(None, 0.03, 0.1)},
            "row 'row0': options: another row has theta = 0.03 too",
        ),
    ],
)
def test_mistakes_in_a_figures_file_are_named(
    change: dict[str, Any], message: str, figure_data: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_figure(figure_data | {"kind": "categories"} | change, "bars")


def test_only_a_timeline_needs_the_clips(parsed: Callable[..., FigureSpec]) -> None:
    assert [kind for kind in ("categories", "confusion", "segments", "tsne") if parsed(kind).shows_clip] == [
        "segments"
    ]


def test_a_figure_asks_for_no_more_of_the_runs_than_it_reads(
    study: Study, parsed: Callable[..., FigureSpec]
) -> None:
    files = {"metrics.json": (0, 1), "predictions.parquet": (0, 1)}
    for kind in ("categories", "confusion", "segments"):
        assert parsed(kind).run_files(study) == files
    assert parsed("tsne", {"seed": 1}).run_files(study) == {
        "metrics.json": (1,), "predictions.parquet": (1,), "embeddings.npz": (1,),
    }  # fmt: skip
    assert parsed("tsne").run_files(study)["embeddings.npz"] == (0,)
    assert parsed("curve", THETA, rows=thetas(0.1)).run_files(study) == {"metrics.json": (0, 1)}


def test_features_of_a_seed_that_the_study_does_not_have_are_an_error(
    study: Study, figure_data: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"options.seed: 5 is not among the study's seeds \[0, 1\]"):
        parse_figure(figure_data | {"kind": "tsne", "options": {"seed": 5}}, "map", study)


def test_a_point_lies_at_the_rows_value_else_the_studys_else_the_models(
    study: Study, parsed: Callable[..., FigureSpec]
) -> None:
    curve = parsed("curve", THETA, rows=thetas(0.1, None))
    assert isinstance(curve, CurveFigure)
    assert [curve.value(row) for row in curve.rows] == [0.1, 0.03]  # the paper's theta is TACMA's default
    other = study.model_copy(update={"models": {"tacma": {"theta": 0.05}}})
    assert [curve.value(row, other) for row in curve.rows] == [0.1, 0.05]


def test_a_figures_file_is_read_with_its_kind(figure_data: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(figure_data | {"kind": "confusion"}), encoding="utf-8")
    figure = load_figure(path)
    assert (figure.name, figure.kind) == ("small", "confusion")
