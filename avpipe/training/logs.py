"""A run's log: lines, log.csv, TensorBoard."""

import csv
import io
import shutil
import sys
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from avpipe.files import write_text
from avpipe.progress import Progress

LINES = 20
"""About how many lines with losses and scores a run prints."""

Row = dict[str, float]


class RunLog:
    """The log of one run; use as a context manager.

    Args:
        folder: runs/{experiment}/seed{n}; gets log.csv and tensorboard/. None: no files.
        name: starts every line.
        epochs: of the whole run.
        rows: epochs done by a job that was killed; TensorBoard's log is written again from them.
        quiet: print nothing.
    """

    def __init__(
        self, folder: Path | None, name: str, epochs: int, rows: list[Row], quiet: bool = False
    ) -> None:
        self.folder, self.name, self.epochs, self.rows, self.quiet = folder, name, epochs, rows, quiet
        self.every = max(1, epochs // LINES)
        self.tensorboard: SummaryWriter | None = None
        if folder is not None:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            self.tensorboard = SummaryWriter(str(folder / "tensorboard"))
        for row in rows:
            self._to_tensorboard(row)
        self.progress = Progress(f"train {name}", epochs, "epochs", len(rows))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: object) -> None:
        if self.tensorboard is not None:
            self.tensorboard.close()

    def epoch(self, row: Row) -> None:
        """Record an epoch; `row` has scores if the epoch was evaluated."""
        self.rows.append(row)
        self._to_tensorboard(row)
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        if self.quiet:
            return
        self.progress.advance()
        if row["epoch"] % self.every == 0 or row["epoch"] == self.epochs:
            say(f"{self.name}: epoch {row['epoch']:.0f}/{self.epochs}  {numbers}")

    def write_csv(self) -> None:
        """Write log.csv: one row an epoch, columns in order of first appearance."""
        if self.folder is None:
            return
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "log.csv", text.getvalue())

    def _to_tensorboard(self, row: Row) -> None:
        for name, value in row.items():
            if name != "epoch" and self.tensorboard is not None:
                self.tensorboard.add_scalar(name, value, int(row["epoch"]))


def say(line: str) -> None:
    """Print a line to stderr, which Snakemake's log keeps."""
    print(line, file=sys.stderr, flush=True)
