"""The captions of Snakemake's report render for every kind of result, with and without a notice."""

from pathlib import Path
from types import SimpleNamespace

import docutils.core
import jinja2
import pytest

from avpipe.plan.registry import load
from avpipe.report import KINDS

CAPTIONS = Path(__file__).resolve().parents[2] / "workflow" / "report"


def rendered(name: str, notice: str | None = None, caption: str = "What is shown.") -> str:
    """The caption as html on one line, as Snakemake renders it; warnings of docutils are errors."""
    snakemake = SimpleNamespace(
        wildcards=SimpleNamespace(dataset="demo", table="avin_fusion", figure="avin_segments"),
        config={"dataset": {"name": "demo"}, **({"notice": notice} if notice else {})},
        params=SimpleNamespace(caption=caption),
    )
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string((CAPTIONS / name).read_text(encoding="utf-8")).render(snakemake=snakemake)
    strict = {"halt_level": 2, "report_level": 2}
    parts = docutils.core.publish_parts(text, writer="html", settings_overrides=strict)
    return " ".join(str(parts["body"]).replace('<span class="pre">', "").replace("</span>", "").split())


@pytest.mark.parametrize("name", ["workflow.rst", "table.rst", "figure.rst"])
def test_a_notice_is_bold_and_appears_only_if_there_is_one(name: str) -> None:
    assert "<strong>DEMO: no reproduction.</strong>" in rendered(name, "DEMO: no reproduction.\n")
    assert "<strong>" not in rendered(name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_figures_caption_is_that_of_its_kind(kind: str) -> None:
    caption = load(KINDS, kind, "kind of figure").caption
    assert caption in rendered("figure.rst", caption=caption)


def test_a_tables_caption_names_the_table() -> None:
    assert "avpipe why avin_fusion ROW METRIC" in rendered("table.rst")
