"""A filled table, and how it is written: csv, Markdown, LaTeX (booktabs) and a standalone HTML page.

Names, reasons and every other text are escaped for the format.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from avpipe.metrics.metric import Metric
from avpipe.plan.experiment import Setting
from avpipe.tables.rows import Row
from avpipe.tables.runs import COSTS, Notice
from avpipe.tables.spec import TableSpec

DATA_FILES = ("templates/*.jinja",)  # part of the code's fingerprint, see avpipe.plan.fingerprint

COLUMNS = (
    "row", "method", "setting", "metric", "published", "mean", "sd", "n_seeds", "protocol", "runs", "note",
)  # fmt: skip
"""Columns of the csv. Other programs read them, so they never change."""

PROTOCOLS = {
    "validation": "chosen on the validation split",
    "last": "of the last epoch",
    "best_test": "chosen on the test split itself: optimistic, only to compare with papers that did so",
}
_LABELS = {"validation": "", "last": "last epoch", "best_test": "best test"}


@dataclass(frozen=True)
class Cell:
    """One number of a table. Published, mean and sd are as printed; costs in the units of `runs.COSTS`.

    Args:
        row: of the table.
        setting: with `metric`, the column.
        metric: name in metrics.json.
        published: the paper's number, or None.
        mean: over the seeds that have a number; None is a gap, and `notes` say why.
        sd: sample standard deviation (n - 1); None for fewer than two seeds.
        n_seeds: seeds, or files of predictions, behind the mean.
        protocol: how the checkpoint was chosen: validation, last, best_test; None for a row that trains nothing.
        deviations: other deviations from the default protocol, such as "shuffle: false" (see `aggregate.deviations_of`).
        runs: folders of the runs, relative to the study's results.
        notes: why numbers are missing, and remarks on those that exist.
    """

    row: Row
    setting: Setting
    metric: str
    published: float | None
    mean: float | None = None
    sd: float | None = None
    n_seeds: int = 0
    protocol: str | None = None
    deviations: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def whole_protocol(self) -> str:
        """For example "best_test; drop_last: true"; "" for a row that trains nothing."""
        return "; ".join([self.protocol, *self.deviations]) if self.protocol else ""


@dataclass(frozen=True)
class Table:
    """A filled table.

    Args:
        name: of its files.
        spec: its rows and columns.
        notice: why its numbers are no reproduction, or None.
        cells: in the order rows, settings, metrics.
        headings: of published and of measured numbers; with the datasets where these differ (`RowsSpec.headings`).
        baselines: scores of model-free baselines, for example "background everywhere: Acc. 38.4".
        metrics: unit and direction of each metric that a run recorded; others are percentages.
    """

    name: str
    spec: TableSpec
    notice: Notice | None
    cells: tuple[Cell, ...]
    headings: tuple[str, str] = ("published", "measured")
    baselines: tuple[str, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """A metric of the table, or a cost."""
        return self.metrics.get(name, Metric(name, "" if name in COSTS else "%"))

    @property
    def units(self) -> str:
        """For the caption."""
        others = any(self.metric(name).unit != "%" for name in self.spec.metrics if name not in COSTS)
        return "scores in percent" + (" where the heading names no other unit" if others else "")

    @property
    def title(self) -> str:
        """The printed title, after the notice's tag."""
        return f"[{self.notice.tag}] {self.spec.title}" if self.notice else self.spec.title

    @property
    def caption(self) -> str:
        """Where the numbers are from, in sentences."""
        used = {cell.protocol for cell in self.cells if cell.mean is not None}
        protocols = ", or ".join(said for protocol, said in PROTOCOLS.items() if protocol in used)
        measured = f"Measured: mean ± sample standard deviation over n seeds, {self.units}"
        sentences = [
            self.spec.origin(),
            f"{measured}; checkpoint {protocols}." if protocols else f"{measured}.",
            "Bold: best measured.",
            *(f"Without a model, {baseline}." for baseline in self.baselines),
        ]
        return " ".join(sentences)

    def cell(self, row: str, setting: str, metric: str) -> Cell:
        """The cell in this row and column."""
        return next(c for c in self.cells if (c.row.row, c.setting, c.metric) == (row, setting, metric))


def as_csv(table: Table) -> str:
    """Long format, one line a (row, setting, metric), numbers as printed; columns are `COLUMNS`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in table.cells:
        published, digits = _number(cell.published, _digits(cell.metric, table)), 4
        numbers = (published, _number(cell.mean, digits), _number(cell.sd, digits), cell.n_seeds)
        elsewhere = [", ".join(table.headings)] if published and table.headings != Table.headings else []
        texts = (cell.whole_protocol, " ".join(cell.runs), "; ".join([*cell.notes, *elsewhere]))
        writer.writerow((cell.row.row, cell.row.method, cell.setting, cell.metric, *numbers, *texts))
    return text.getvalue()


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def as_markdown(table: Table) -> str:
    """A GitHub table with title, notice and notes."""
    environment = _environment(autoescape=False)
    environment.filters["md"] = escape_markdown
    return environment.get_template("table.md.jinja").render(_view(table))


def as_latex(table: Table) -> str:
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


def as_html(table: Table) -> str:
    """One page that loads no other file, for light and dark screens and for screen readers."""
    return _environment(autoescape=True).get_template("table.html.jinja").render(_view(table))


RENDERERS: dict[str, Callable[[Table], str]] = {
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


def _view(table: Table) -> dict[str, Any]:
    """The variables of the templates. A column is a pair (setting, metric), with published numbers, if any, and measured ones."""
    spec, cells = table.spec, table.cells
    notes = list(dict.fromkeys(note for cell in cells for note in cell.notes))
    shown = {(c.row.row, c.setting, c.metric): _show(c, table, notes) for c in cells}
    printed = {(c.setting, c.metric) for c in cells if c.published is not None}
    columns: list[dict[str, Any]] = []
    last = 1  # place of the last column in LaTeX; the first one is the method's
    for setting in spec.settings:
        for metric, heading in spec.metrics.items():
            published = (setting, metric) in printed
            first, last = last + 1, last + 1 + published
            places = {"published": published, "first": first, "last": last}
            unit = table.metric(metric).unit
            heading = f"{heading} ({unit})" if unit not in ("", "%") else heading
            columns.append({"setting": setting, "metric": metric, "heading": heading, **places})
    return {
        "table": table,
        "columns": columns,
        "rows": [
            {"row": row, "cells": [shown[row.row, c["setting"], c["metric"]] for c in columns]}
            for row in spec.rows
        ],
        "notes": notes,
    }


def _digits(metric: str, table: Table) -> int:
    """Decimals of printed numbers: the table's for percentages, else those of the cost or metric."""
    if metric in COSTS:
        return COSTS[metric][1]
    known = table.metric(metric)
    return table.spec.decimals if known.unit == "%" else known.decimals


def _show(cell: Cell, table: Table, notes: list[str]) -> dict[str, Any]:
    """A cell as it is printed: an en dash for an unpublished number, no `mean` for a gap, `marks` numbers of notes.

    `best` marks the best measured mean of a column unless all are equal; `label` has deviations from the default protocol.
    """
    cost, digits = cell.metric in COSTS, _digits(cell.metric, table)
    column = [c for c in table.cells if (c.setting, c.metric) == (cell.setting, cell.metric)]
    means = [round(c.mean, digits) for c in column if c.mean is not None]
    choose = max if table.metric(cell.metric).higher_is_better else min
    best = cell.mean is not None and not cost and round(cell.mean, digits) == choose(means)
    best = best and len(set(means)) > 1
    labels = [_LABELS[cell.protocol], *cell.deviations] if cell.protocol and cell.mean is not None else []
    return {
        "published": _number(cell.published, digits) or "–",
        "mean": _number(cell.mean, digits),
        "sd": _number(cell.sd, digits),
        "n_seeds": cell.n_seeds,
        "best": best,
        "label": ", ".join(filter(None, labels)),
        "marks": sorted(notes.index(note) + 1 for note in cell.notes),
    }


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after a row's end, LaTeX would read them as its arguments
    "–": "--", "±": r"$\pm$", "×": r"$\times$", "θ": r"$\theta$", "…": r"\ldots{}",
    "“": "``", "”": "''", '"': "''", "‘": "`", "’": "'",
    "\0": "{}",  # between two hyphens or apostrophes, which LaTeX would join
}  # fmt: skip


def escape_latex(text: object) -> str:
    """Text that LaTeX prints unchanged; line breaks and control characters become spaces."""
    line = re.sub("(?<=-)(?=-)|(?<=')(?=')", "\0", _one_line(text))
    opened = re.sub(r"(?<![^\s(\[{])[\"']", lambda quote: "“" if quote[0] == '"' else "‘", line)
    return "".join(_LATEX.get(c, c) for c in opened)


def escape_markdown(text: object) -> str:
    """Text that a Markdown table prints unchanged: one line, no markup, no cell border, no HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", _one_line(text)).replace("&", "&amp;")


def _one_line(text: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
