"""A study and results of another one are refused, because their numbers would be mixed up."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avpipe.cli import app

ROOT = Path(__file__).resolve().parents[2]
STUDY = f"--study={ROOT / 'config.yaml'}"  # of the dataset demo


@pytest.fixture(params=["its manifest", "its name"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Results of another dataset, as their manifest or only the folder's name says."""
    results = tmp_path / "results" / ("demo" if request.param == "its manifest" else "other")
    results.mkdir(parents=True)
    if request.param == "its manifest":
        (results / "manifest.json").write_text(json.dumps({"dataset": "other"}))
    return results


@pytest.mark.parametrize(
    "command",
    [
        ["why", "avin_comparison", "avin", "accuracy", f"--workflow={ROOT / 'workflow'}"],
        ["tables", "write", "avin_comparison", f"--spec={ROOT / 'workflow/tables/avin_comparison.yaml'}"],
        ["report", "figure", "avin_confusion", f"--spec={ROOT / 'workflow/figures/avin_confusion.yaml'}"],
        ["download", "retry"],
    ],
)
def test_results_of_another_study_are_refused(command: list[str], other: Path) -> None:
    done = CliRunner().invoke(app, [*command, STUDY, f"--results={other}"])
    assert done.exit_code == 1
    assert f"{other} has the results of other" in done.output
    assert "study of demo" in done.output
    assert not (other / "tables").exists()
