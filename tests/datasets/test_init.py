"""Readers are found by name, their options are checked, and nothing heavy is loaded for it."""

import pytest

from avpipe.datasets import DATASETS, read_annotations
from avpipe.plan.registry import UnknownNameError, options_of


def test_every_reader_takes_the_folder_and_keyword_only_options():
    for qualified in DATASETS.values():
        assert "annotations" not in options_of(qualified)
    assert options_of(DATASETS["llp"])["audio_csv"]["default"] == "AVVP_eval_audio.csv"


def test_a_mistyped_kind_or_option_gets_a_suggestion(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'llp'"):
        read_annotations("lpl", tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'audio_csv'"):
        read_annotations("llp", tmp_path, audio_cvs="x")
