"""A figure's file says what is drawn and which files of which runs it needs; its mistakes are named."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from avpipe.plan.fingerprint import import_closure
from avpipe.plan.plan import JOBS
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report import KINDS
from avpipe.report.predictions import NothingToDraw
from avpipe.report.spec import load_figure, parse_figure
from avpipe.report.style import Heading

from .conftest import ROWS, Toy, figure_data, figure_of

THETA = {"option": "theta", "heading": "Accuracy (%)"}


def thetas(*values: float | None) -> list[dict[str, Any]]:
    """A row of TACMA for each value; None: the row does not have the option."""
    return [
        {"row": f"row{i}", "method": "TACMA", "model": "tacma", "options": {} if v is None else {"theta": v}}
        for i, v in enumerate(values)
    ]


def test_reading_figures_of_every_kind_imports_nothing_heavy() -> None:
    heavy = {"torch", "matplotlib", "sklearn", "decord"}
    probe = f"import sys; from avpipe.plan.registry import load; from avpipe.report import KINDS; [load(KINDS, k, '') for k in KINDS]; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_one_kinds_code_redraws_no_figure_of_another_kind(kind: str) -> None:
    modules = {name: target.split(":")[0] for name, target in KINDS.items()}
    drawn_by = import_closure(*JOBS["figure"].modules, modules[kind])
    assert drawn_by & set(modules.values()) == {modules[kind]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "confuson"}, "kind: .*'confuson'; did you mean 'confusion'"),
        ({"kind": None}, "kind: .*known: categories, confusion, curve"),
        ({"options": {"limits": 3}}, "options.limits: no such key; did you mean 'limit'"),
        ({"kind": "segments", "options": {"limit": 3}}, "options.limit: no such key"),
        ({"kind": "confusion", "options": {"limit": 3}}, "options.limit: no such key"),
        ({"rows": [ROWS["localization"][0] | {"published": {"supervised": 7}}]}, "row 'avel': published: only a table"),
        ({"kind": "curve"}, "options: is missing"),
        ({"kind": "curve", "options": THETA}, "row 'avel': options: the figure's options.option: "),
        ({"kind": "curve", "options": THETA | {"option": "encoder"}, "rows": thetas(None)}, "row 'row0': options: encoder is"),
        ({"kind": "curve", "options": THETA, "rows": thetas(None, 0.03, 0.1)}, "row 'row0': options: another .* 0.03"),
        ({"kind": "tsne", "options": {"seed": 5}}, r"options.seed: 5 .*\[0, 1, 2\]"),
        ({"kind": "segments", "options": {"seed": 5}}, r"options.seed: 5 .*\[0, 1, 2\]"),
    ],
)  # fmt: skip
def test_mistakes_in_a_figures_file_are_named(change: dict[str, Any], message: str, study: Study) -> None:
    with pytest.raises(ConfigError, match=f"bars.*(?s:.*){message}"):
        parse_figure(figure_data("categories") | change, "bars", study)


def test_a_figure_asks_for_no_more_than_it_reads(toy: Toy) -> None:
    files: dict[str, tuple[int, ...]] = {"metrics.json": (0, 1), "predictions.parquet": (0, 1)}
    one_seed = {"metrics.json": (1,), "predictions.parquet": (1,), "embeddings.npz": (1,)}
    reads = {
        kind: figure_of(kind).run_files(toy.study)
        for kind in KINDS
        if kind not in ("curve", "events", "sources", "spectrograms", "tsne")
    }
    assert all(names == files for names in reads.values())
    assert figure_of("tsne", {"seed": 1}).run_files(toy.study) == one_seed
    assert figure_of("curve", THETA, rows=thetas(0.1)).run_files(toy.study) == {"metrics.json": (0, 1)}
    assert {kind for kind in reads if figure_of(kind).shows_clip} == {"segments", "parsed", "grounding"}


def test_a_point_is_at_the_rows_value_else_the_studys_else_the_models(study: Study) -> None:
    curve = figure_of("curve", THETA, rows=thetas(0.1, None))
    assert [curve.value(row) for row in curve.rows] == [0.1, 0.03]  # the paper's theta is TACMA's default
    other = study.model_copy(update={"models": {"tacma": {"theta": 0.05}}})
    assert [curve.value(row, other) for row in curve.rows] == [0.1, 0.05]


def test_a_figures_file_is_read_with_its_kind_and_its_one_setting(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(figure_data("confusion", setting="weakly-supervised")), encoding="utf-8")
    figure = load_figure(path, study)
    assert (figure.name, figure.kind) == ("small", "confusion")
    assert list(figure.experiments(study)) == [("avel", "weakly-supervised"), ("avin", "weakly-supervised")]


@pytest.mark.parametrize(
    ("kind", "options", "rows"),
    [
        ("categories", {}, ROWS["localization"]),
        ("curve", {"option": "attention_dim", "heading": "Accuracy"}, ROWS["localization"][:1]),
    ],
)
def test_a_row_that_needs_a_map_is_missing_where_the_feature_is_a_vector(
    kind: str, options: dict[str, Any], rows: list[dict[str, Any]], toy: Toy
) -> None:
    vectors = {"vgg16_map": toy.study.extractors["vgg16_map"].model_copy(update={"pooling": "vector"})}
    study = toy.study.model_copy(update={"extractors": toy.study.extractors | vectors})
    spec = parse_figure(figure_data(kind, options=options, rows=rows), "bars", study)
    spec = parse_figure(spec.model_dump(mode="json"), "bars", study)  # as the workflow passes it to the job
    assert {row for row, _ in spec.experiments(study)} == {row["row"] for row in rows} - {"avel"}
    with pytest.raises(NothingToDraw) as nothing:
        spec.draw(study, toy.results, Heading("Title"))
    assert any("Missing: AVEL: avel attends to the cells of a map" in line for line in nothing.value.args)
