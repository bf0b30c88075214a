"""Readers are found by name, their options are checked, and nothing heavy is loaded for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from avpipe.datasets import DATASETS, read_annotations
from avpipe.plan.registry import UnknownNameError, options_of


def test_every_reader_takes_the_folder_and_keyword_only_options() -> None:
    for qualified in DATASETS.values():
        assert "annotations" not in options_of(qualified)
    assert options_of(DATASETS["llp"])["audio_csv"]["default"] == "AVVP_eval_audio.csv"


def test_an_unknown_kind_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown kind of dataset 'lpl'; did you mean 'llp'"):
        read_annotations("lpl", tmp_path)


def test_a_mistyped_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no option 'audio_cvs'; did you mean 'audio_csv'"):
        read_annotations("llp", tmp_path, audio_cvs="x")


def test_the_table_and_the_inventory_load_neither_pandas_nor_torch() -> None:
    code = (
        "import sys, avpipe.datasets, avpipe.datasets.manifest\n"
        "print({'pandas', 'torch', 'numpy', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
