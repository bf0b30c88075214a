"""`avpipe import` and `avpipe export`: what a person types, and how mistakes are answered."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from avpipe.cli import app
from avpipe.datasets import read_annotations
from avpipe.datasets.manifest import write_manifest

LINES = [f"Bark&{letter * 11}&good&0&9" for letter in "ABC"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with x.h5 (features of three clips) and R, the manifest of a dataset in AVE's format."""
    (tmp_path / "annotations").mkdir()
    sets = {"Annotations": LINES, "trainSet": LINES[:1], "valSet": LINES[1:2], "testSet": LINES[2:]}
    for name, lines in sets.items():
        (tmp_path / "annotations" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    write_manifest(read_annotations("ave", tmp_path / "annotations"), "mine", tmp_path / "R", 2, [])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["avadataset"] = np.arange(3 * 80 * 4, dtype="float64").reshape(3, 80, 4)
    return tmp_path


def avpipe(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize(("bad", "said"), [([], "issues: none"), (["bad id&x"], "issues: 1 ")])
def test_the_manifest_says_whether_there_are_issues_and_where(bad, said, study):
    with (study / "annotations" / "Annotations.txt").open("a") as file:
        file.write("Bark&AAAAAAAAAAA&good&0&9\n" * len(bad))
    arguments = ("--name", "x", "--kind", "ave", "--annotations", study / "annotations", "--out", study / "M")
    code, output = avpipe("datasets", "manifest", *arguments)
    assert (code, "nothing to do" in output) == (0, False)
    assert said in output
    assert (str(study / "M" / "issues.csv") in output) == bool(bad)


def test_imported_features_can_be_exported(study):
    rows = study / "annotations" / "Annotations.txt"
    common = ("--results", study / "R")
    code, said = avpipe(
        "import", study / "x.h5", "--name", "look", "--shape", "10,8,4", "--rows", rows, *common
    )
    assert (code, said) == (0, "3 imported\n")
    out = ("--out", study / "out", "--shape", "80,4")
    assert avpipe("export", "look=visual", "--format", "ave", *out, *common) == (0, "3 look\n")
    with h5py.File(study / "out" / "visual.h5") as made, h5py.File(study / "x.h5") as given:
        assert made["avadataset"].dtype == np.float64
        np.testing.assert_array_equal(made["avadataset"][:], given["avadataset"][:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--name", "a/b", "--shape", "10,8,4"), "'a/b'"),
        (("--name", "a", "--shape", "10;4"), "shape.0: "),
        (("--name", "a", "--shape", "10,4", "--format", "h6"), "format: "),
        (("--name", "a", "--shape", "10,4"), "(80, 4), expected (10, 4)"),
    ],
)
def test_mistakes_give_one_message(study, arguments, message):
    code, said = avpipe("import", study / "x.h5", *arguments, "--results", study / "R")
    assert code == 1
    assert said.startswith("error: ")
    assert message in said


def test_a_mistyped_format_of_export_gets_a_suggestion(study):
    code, output = avpipe("export", "a", "--format", "numpy", "--results", study / "R", "--out", study)
    assert code == 1
    assert "did you mean 'npy'?" in output


@pytest.mark.parametrize("command", [("weights", "fetch"), ("why", "avin_fusion", "x", "accuracy")])
def test_commands_that_read_a_study_name_its_wrong_values(command):
    study = "{dataset: {name: demo, kind: demo}, extractors: {a: {backbone: resnet125}}}"
    assert avpipe(*command, "--study", study) == (
        1,
        "error: extractors are wrong:\n  extractors.a.backbone: unknown backbone 'resnet125'; did you mean 'resnet152'?\n",
    )
