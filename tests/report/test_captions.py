"""The captions of Snakemake's report render for every kind of result, with and without a notice."""

from pathlib import Path
from types import SimpleNamespace

import docutils.core
import jinja2
import pytest

from avpipe.report.spec import _KINDS

CAPTIONS = Path(__file__).resolve().parents[2] / "workflow" / "report"


def rendered(name: str, notice: str | None, kind: str = "categories") -> str:
    """The caption as html on one line, as Snakemake renders it; warnings of docutils are errors."""
    wildcards = SimpleNamespace(dataset="demo", table="avin_fusion", figure="avin_segments")
    config = {"dataset": {"name": "demo"}, **({"notice": notice} if notice else {})}
    snakemake = SimpleNamespace(
        wildcards=wildcards, config=config, params=SimpleNamespace(text=f'{{"kind":"{kind}"}}')
    )
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string((CAPTIONS / name).read_text(encoding="utf-8")).render(snakemake=snakemake)
    parts = docutils.core.publish_parts(
        text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2}
    )
    return " ".join(str(parts["body"]).split())


@pytest.mark.parametrize("name", ["workflow.rst", "table.rst", "figure.rst"])
def test_a_notice_is_said_in_bold_and_only_where_there_is_one(name: str) -> None:
    assert "<strong>DEMO: no reproduction.</strong>" in rendered(name, "DEMO: no reproduction.\n")
    assert "<strong>" not in rendered(name, None)


def test_each_kind_of_figure_has_its_own_words() -> None:
    assert "Hatched segments are wrong" in rendered("figure.rst", None, "segments")
    assert "Accuracy per event category" in rendered("figure.rst", None, "categories")
    assert "Confusion matrices" in rendered("figure.rst", None, "confusion")
    assert "option of the model" in rendered("figure.rst", None, "curve")
    assert "before and after fusion" in rendered("figure.rst", None, "tsne")
    assert "heard, seen, or both" in rendered("figure.rst", None, "events")
    assert "with and without pretraining" in rendered("figure.rst", None, "fscores")
    assert "Algorithm 1" in rendered("figure.rst", None, "grounding")
    assert "heard and which are seen" in rendered("figure.rst", None, "parsed")
    captions = {rendered("figure.rst", None, kind) for kind in _KINDS}
    assert len(captions) == len(_KINDS)


def test_a_tables_caption_names_the_table() -> None:
    assert "avpipe why avin_fusion ROW METRIC" in rendered("table.rst", None).replace(
        '<span class="pre">', ""
    ).replace("</span>", "")
