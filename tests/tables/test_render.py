"""The four formats show the same table, escape every text, and say in the title if it is no reproduction."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpipe.tables.render import (
    RENDERERS,
    Cell,
    Table,
    as_csv,
    as_html,
    as_latex,
    as_markdown,
    escape_latex,
    escape_markdown,
)
from avpipe.tables.runs import Notice
from avpipe.tables.spec import TableSpec, parse_table

WILD = r"50 % of <b>R&D</b>_{x} $y$ #1 ~ ^ \n | `c` *d*"


def filled(spec: TableSpec, notice: Notice | None = None, gap: str = "no model yet", **avel: Any) -> Table:
    """The cell of AVEL with the values `avel`, and that of DAM, which is a gap; only the supervised setting."""
    first, second = spec.rows
    cells = (
        Cell(first, "supervised", "accuracy", 72.7, **avel),
        Cell(second, "supervised", "accuracy", 74.5, notes=(gap,)),
    )
    return Table("small", spec, notice, cells)


@pytest.fixture
def data(table_data: dict[str, Any]) -> dict[str, Any]:
    for row in table_data["rows"]:
        row["published"].pop("weakly-supervised", None)
    return table_data | {"settings": ["supervised"]}


@pytest.fixture
def spec(data: dict[str, Any]) -> TableSpec:
    return parse_table(data, "small")


MEASURED: dict[str, Any] = {"mean": 71.96, "sd": 0.449, "n_seeds": 3, "protocol": "validation"}


def test_markdown_shows_published_beside_measured_and_gaps(spec: TableSpec) -> None:
    text = as_markdown(filled(spec, **MEASURED))
    assert "| AVEL | 72.7 | 72.0 ± 0.4 (n=3) |" in text
    assert "| DAM | 74.5 | gap [^1] |" in text
    assert "[^1]: no model yet" in text
    assert "checkpoint chosen on the validation split" in text


def test_latex_shows_published_beside_measured_and_gaps(spec: TableSpec) -> None:
    text = as_latex(filled(spec, **MEASURED))
    assert re.search(r"AVEL\s+& 72\.7 & 72\.0 \$\\pm\$ 0\.4 \{\\scriptsize\(\$n\$=3\)\}\s+\\\\", text)
    assert re.search(r"DAM\s+& 74\.5 & gap\\textsuperscript\{1\}\s+\\\\", text)
    assert r"\textsuperscript{1} no model yet" in text
    assert all(line in text for line in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_without_published_numbers_there_is_no_column_for_them(data: dict[str, Any]) -> None:
    for row in data["rows"]:
        del row["published"]
    data["metrics"] = {"accuracy": "Acc.", "parameters": "Parameters (M)"}
    spec = parse_table(data, "small")
    first, second = spec.rows
    costs = {"mean": 1.3, "sd": 0.0, "n_seeds": 3, "protocol": "validation"}
    cells = [Cell(first, "supervised", "accuracy", None, **MEASURED)]
    cells += [Cell(first, "supervised", "parameters", None, **costs)]
    cells += [Cell(second, "supervised", m, None, mean=99.0, n_seeds=1) for m in data["metrics"]]
    table = Table("small", spec, None, tuple(cells))
    assert "| Method | supervised: Acc. | supervised: Parameters (M) |" in as_markdown(table)
    assert "| AVEL | 72.0 ± 0.4 (n=3) | 1.30 ± 0.00 (n=3) |" in as_markdown(table)
    assert "| DAM | **99.0** (n=1) | 99.00 (n=1) |" in as_markdown(table), "more parameters are not better"
    assert r"\begin{tabular}{lrr}" in as_latex(table)
    assert "published</th>" not in as_html(table)


class Page(HTMLParser):
    """Checks that tags close, and collects header scopes, links and ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scopes: list[str | None] = []
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag != "meta":
            self.open.append(tag)
        if tag == "th":
            self.scopes.append(given.get("scope"))
        self.links.update({str(given["href"])} if "href" in given else ())
        self.ids.update({"#" + str(given["id"])} if "id" in given else ())

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_a_well_formed_page_with_named_headers_and_notes_that_links_reach(spec: TableSpec) -> None:
    text = as_html(filled(spec, **MEASURED))
    page = Page(text)
    assert set(page.scopes) == {"col", "colgroup", "row"}
    assert page.links == {"#note-1"} == page.ids
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text  # nothing is loaded from outside
    assert "72.0 ± 0.4</span>" in text
    assert '<span class="gap">gap</span>' in text


@pytest.mark.parametrize("ending", ["md", "tex", "html"])
def test_the_title_says_when_a_table_is_no_reproduction(ending: str, spec: TableSpec) -> None:
    notice = Notice("DEMO, RANDOM WEIGHTS", "Not a reproduction of anything.")
    text = RENDERERS[ending](filled(spec, notice, **MEASURED))
    assert "DEMO, RANDOM WEIGHTS" in text[: text.index("A small table")]
    assert "Not a reproduction of anything." in text
    assert "DEMO" not in RENDERERS[ending](filled(spec, **MEASURED))


def test_deviations_from_the_default_protocol_are_in_the_cell(spec: TableSpec) -> None:
    table = filled(spec, **MEASURED, deviations=("shuffle: false", "drop_last: true"))
    assert r"| AVEL | 72.7 | 72.0 ± 0.4 (n=3, shuffle: false, drop\_last: true) |" in as_markdown(table)
    assert r"drop\_last: true" in as_latex(table)
    assert "n=3, shuffle: false, drop_last: true" in as_html(table)
    assert ",validation; shuffle: false; drop_last: true," in as_csv(table)


@pytest.mark.parametrize("ending", ["md", "tex", "html"])
@pytest.mark.parametrize(("protocol", "label"), [("best_test", "best test"), ("last", "last epoch")])
def test_other_protocols_than_validation_are_labelled(
    ending: str, protocol: str, label: str, spec: TableSpec
) -> None:
    text = RENDERERS[ending](filled(spec, **MEASURED | {"protocol": protocol}))
    assert f"=3, {label}" in text or f"$=3, {label}" in text
    assert "validation" not in text
    assert ("optimistic" in text) == (protocol == "best_test")


@pytest.mark.parametrize(
    ("means", "shown"), [((60.0, 70.0), ["60.0", "**70.0**"]), ((20.2, 20.2), ["20.2", "20.2"])]
)
def test_the_best_mean_of_a_column_is_bold_unless_all_are_equal_and_one_seed_has_no_deviation(
    means: tuple[float, float], shown: list[str], spec: TableSpec
) -> None:
    cells = [
        Cell(r, "supervised", "accuracy", None, mean=m, n_seeds=1)
        for r, m in zip(spec.rows, means, strict=True)
    ]
    text = as_markdown(Table("small", spec, None, tuple(cells)))
    assert all(f"| {number} (n=1) |" in text for number in shown)


def test_names_and_reasons_are_escaped_in_every_format(data: dict[str, Any]) -> None:
    data["rows"][1] |= {"method": WILD, "gap": WILD}
    table = filled(parse_table(data, "small"), gap=WILD, **MEASURED)
    page = as_html(table)
    assert "<b>" not in page
    assert "&lt;b&gt;R&amp;D&lt;/b&gt;" in page
    Page(page)
    assert "<b>" not in as_markdown(table)
    assert r"50 \% of \textless{}b\textgreater{}R\&D" in as_latex(table)


@given(st.text())
def test_escaped_latex_has_no_active_character_left(text: str) -> None:
    rest = re.sub(
        r"\\text(backslash|asciitilde|asciicircum|asciigrave|less|greater|bar)\{\}|\\ldots\{\}|\$\\(pm|times|theta)\$|\\[&%$#_{}]"
        r"|\{[][*]?\}",
        "",
        escape_latex(text),
    )
    assert not set(rest) & set('\\&%$#_{}~^<>|"\n\r')


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ('slide "Ablation study"', "slide ``Ablation study''"),
        ('("a", "b")', "(``a'', ``b'')"),
        ("'VGG16' as printed, though AVEL's", "`VGG16' as printed, though AVEL's"),
        ("unknown model ''", "unknown model `{}'"),
        ("--study a–b", "-{}-study a--b"),
        (
            "`c` θ = 0.03 ± 1 × 2…",
            r"\textasciigrave{}c\textasciigrave{} $\theta$ = 0.03 $\pm$ 1 $\times$ 2\ldots{}",
        ),
    ],
)
def test_latex_prints_quotes_dashes_and_symbols_as_written(text: str, latex: str) -> None:
    assert escape_latex(text) == latex


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Published: Nobody, 2020, Table 1."),
        ({"dataset": "AVE"}, "Published on AVE: Nobody, 2020, Table 1."),
        ({"published": {}}, "No number is quoted from Nobody, 2020, Table 1."),
        ({"published": {}, "paper": None, "printed": None}, "No paper prints these numbers."),
        ({"published": {}, "paper": "none", "printed": "nowhere"}, "No paper prints these numbers."),
    ],
)
def test_a_table_says_where_its_published_numbers_are_from(
    changes: dict[str, Any], sentence: str, data: dict[str, Any]
) -> None:
    for row in data["rows"]:
        row["published"] = changes.get("published", row["published"])
    spec = parse_table(data | {k: v for k, v in changes.items() if k != "published"}, "small")
    for ending in ("md", "tex", "html"):
        assert sentence in RENDERERS[ending](filled(spec, **MEASURED))


@given(st.text())
def test_escaped_markdown_stays_in_its_cell(text: str) -> None:
    escaped = escape_markdown(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(\\\\)*[|<`]", re.sub(r"\\\\", "", escaped))
