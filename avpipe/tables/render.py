"""A filled table as csv, Markdown, LaTeX (booktabs) and a standalone HTML page.

Everything that came from a file or from a failed run is escaped for the format it goes to.
"""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from avpipe.tables.runs import COST_DIGITS, COSTS

if TYPE_CHECKING:
    from avpipe.tables.aggregate import Cell, Table

DATA_FILES = ("templates/*.jinja",)  # part of the code's fingerprint, see avpipe.plan.fingerprint

COLUMNS = (
    "row",
    "method",
    "setting",
    "metric",
    "published",
    "mean",
    "sd",
    "n_seeds",
    "protocol",
    "runs",
    "note",
)
"""Of the csv, which outside programs read."""

PROTOCOLS = {
    "validation": "chosen on the validation split",
    "last": "of the last epoch",
    "best_test": "chosen on the test split itself: optimistic, only to compare with papers that did so",
}
_LABELS = {"validation": "", "last": "last epoch", "best_test": "best test"}


@dataclass(frozen=True)
class Shown:
    """A cell as people see it.

    Args:
        published: the printed number, or an en dash where none was printed.
        mean: the measured number, or "" for a gap.
        sd: or "" for fewer than two seeds.
        n_seeds: seeds behind the mean.
        best: the highest measured mean of its column, where there is a lower one.
        label: of the protocol and its quirks, where they are not the default.
        marks: numbers of the notes below the table.
    """

    published: str
    mean: str
    sd: str
    n_seeds: int
    best: bool
    label: str
    marks: tuple[int, ...]


def as_csv(table: "Table") -> str:
    """Long format, one line a (row, setting, metric), numbers in percent; columns are `COLUMNS`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in table.cells:
        writer.writerow(
            [
                cell.row.row,
                cell.row.method,
                cell.setting,
                cell.metric,
                _number(cell.published, table.spec.decimals),
                _number(cell.mean, 4),
                _number(cell.sd, 4),
                cell.n_seeds,
                cell.whole_protocol,
                " ".join(cell.runs),
                "; ".join(cell.notes),
            ]
        )
    return text.getvalue()


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def as_markdown(table: "Table") -> str:
    """A GitHub table with title, notes and, loudly, the notice."""
    environment = _environment(autoescape=False)
    environment.filters["md"] = escape_markdown
    return environment.get_template("table.md.jinja").render(_view(table))


def as_latex(table: "Table") -> str:
    r"""A `table` environment for `\input`; needs booktabs and, for wide tables, a page wide enough."""
    environment = _environment(
        autoescape=False,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters["tex"] = escape_latex
    return environment.get_template("table.tex.jinja").render(_view(table))


def as_html(table: "Table") -> str:
    """One page without outside files, for light and dark screens and for screen readers."""
    return _environment(autoescape=True).get_template("table.html.jinja").render(_view(table))


RENDERERS: dict[str, Callable[["Table"], str]] = {
    "csv": as_csv,
    "md": as_markdown,
    "tex": as_latex,
    "html": as_html,
}
"""File ending -> renderer."""


def _environment(**options: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def _view(table: "Table") -> dict[str, Any]:
    """What the templates see: columns are pairs (setting, metric), shown as published, if any number is, and measured."""
    spec = table.spec
    columns = [(setting, metric) for setting in spec.settings for metric in spec.metrics]
    notes = list(dict.fromkeys(note for cell in table.cells for note in cell.notes))
    shown = {(c.row.row, c.setting, c.metric): _show(c, table, notes) for c in table.cells}
    protocols = [p for p in PROTOCOLS if any(c.protocol == p and c.mean is not None for c in table.cells)]
    return {
        "table": table,
        "spec": spec,
        "columns": _columns(table),
        "rows": [{"row": row, "cells": [shown[row.row, s, m] for s, m in columns]} for row in spec.rows],
        "notes": notes,
        "protocols": [PROTOCOLS[p] for p in protocols],
    }


def _columns(table: "Table") -> list[dict[str, Any]]:
    """Setting and metric of each group of columns, whether it has a published one, and the first and last column's number."""
    printed = {(c.setting, c.metric) for c in table.cells if c.published is not None}
    columns: list[dict[str, Any]] = []
    last = 1  # the method's
    for setting in table.spec.settings:
        for metric, heading in table.spec.metrics.items():
            published = (setting, metric) in printed
            first, last = last + 1, last + 1 + published
            columns.append(
                {"setting": setting, "heading": heading, "published": published, "first": first, "last": last}
            )
    return columns


def _show(cell: "Cell", table: "Table", notes: list[str]) -> Shown:
    cost = cell.metric in COSTS
    digits = COST_DIGITS[cell.metric] if cost else table.spec.decimals
    rivals = [
        c.mean
        for c in table.cells
        if (c.setting, c.metric) == (cell.setting, cell.metric) and c.mean is not None
    ]
    return Shown(
        published="–" if cell.published is None else f"{cell.published:.{digits}f}",
        mean="" if cell.mean is None else f"{cell.mean:.{digits}f}",
        sd="" if cell.sd is None or (cost and not round(cell.sd, digits)) else f"{cell.sd:.{digits}f}",
        n_seeds=cell.n_seeds,
        best=cell.mean is not None
        and not cost
        and round(cell.mean, digits) == round(max(rivals), digits) > round(min(rivals), digits),
        label=", ".join(filter(None, [_LABELS[cell.protocol], *cell.quirks]))
        if cell.protocol and cell.mean is not None
        else "",
        marks=tuple(sorted(notes.index(note) + 1 for note in cell.notes)),
    )


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after a row's end, LaTeX would read them as its arguments
    "–": "--", "±": r"$\pm$", "×": r"$\times$", "…": r"\ldots{}", '"': "''",
}  # fmt: skip


def escape_latex(text: object) -> str:
    """Text that LaTeX prints as it stands; line breaks and control characters become spaces."""
    return "".join(_LATEX.get(c, c) for c in _one_line(text))


def escape_markdown(text: object) -> str:
    """Text that a Markdown table prints as it stands: one line, no markup, no cell border, no HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", _one_line(text)).replace("&", "&amp;")


def _one_line(text: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
