"""What every stage relies on: which clip names are safe, and which outcomes there are."""

import re

import pytest

from avpipe.clips import CLIP_NAME, Status


@pytest.mark.parametrize("name", ["-abc_DEF1234", "_x", "a~2", "a" * 128])
def test_youtube_ids_and_second_rows_are_clip_names(name: str) -> None:
    assert re.fullmatch(CLIP_NAME, name)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.b", "~a", "a b", "a\n", "é", "a" * 129])
def test_what_could_leave_its_folder_or_break_a_webdataset_key_is_no_clip_name(name: str) -> None:
    assert not re.fullmatch(CLIP_NAME, name)


@pytest.mark.parametrize("status", Status)
def test_every_status_has_one_sentence_and_reads_back_from_its_text(status: Status) -> None:
    assert status.meaning.endswith(".")
    assert "." not in status.meaning[:-1]
    assert Status(str(status)) is status


def test_only_failures_that_may_pass_are_asked_for_again() -> None:
    assert {status for status in Status if not status.final} == {
        Status.MISSING,
        Status.WEB_PAGE,
        Status.BOT_CHECK,
        Status.RATE_LIMITED,
        Status.NOT_FETCHED,
        Status.NOT_YET,
        Status.NETWORK_ERROR,
        Status.TIMED_OUT,
        Status.NO_TOOL,
    }


def test_a_clip_with_one_modality_is_in_the_shard() -> None:
    in_shard = {status for status in Status if status.in_shard}
    assert in_shard == {Status.PRESENT, Status.NO_AUDIO, Status.NO_VIDEO}
