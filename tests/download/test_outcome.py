"""The outcomes are a closed list that a later download run can act on."""

import pytest

from avpipe.download import Status


@pytest.mark.parametrize("status", Status)
def test_every_status_has_one_sentence_and_reads_back_from_its_text(status: Status) -> None:
    assert status.meaning.endswith(".")
    assert "." not in status.meaning[:-1]
    assert Status(str(status)) is status


def test_what_may_pass_is_not_final_and_what_will_not_is() -> None:
    later = {status for status in Status if not status.final}
    assert later == {
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
    assert {status for status in Status if status.in_shard} == {
        Status.PRESENT,
        Status.NO_AUDIO,
        Status.NO_VIDEO,
    }
