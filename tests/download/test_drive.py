"""Google Drive's pages: the one that asks back is answered, the others say why there is no file."""

import math
from pathlib import Path
from typing import Any

import pytest

from avpipe.download import Status, drive
from avpipe.download.archive import ArchiveFetcher
from avpipe.download.base import WantedClip
from avpipe.download.drive import confirmed_url
from avpipe.plan.source import ArchiveSource
from avpipe.web import DownloadFailed, Limits
from tests.builders import zip_of

FILE_ID = "1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK"
WARNING = f"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p class="uc-warning-caption">Google Drive can't scan this file for viruses.</p>
<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">
<input type="submit" id="uc-download-link" value="Download anyway"/>
<input type="hidden" name="id" value="{FILE_ID}"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="2b32fee2-d9c8&amp;a">
</form></body></html>"""
QUOTA = "<html><head><title>Google Drive - Quota exceeded</title></head><body>Too many users have viewed or downloaded this file recently.</body></html>"
SIGN_IN = '<html><form action="https://accounts.google.com/v3/signin/identifier"></form></html>'


def test_the_form_of_the_virus_warning_is_filled_in_as_it_is() -> None:
    assert confirmed_url(WARNING) == (
        f"https://drive.usercontent.google.com/download?id={FILE_ID}&export=download&confirm=t&uuid=2b32fee2-d9c8%26a"
    )


@pytest.mark.parametrize(
    ("page", "status"),
    [
        (QUOTA, Status.RATE_LIMITED),
        (SIGN_IN, Status.PRIVATE),
        ("<html>You need access</html>", Status.PRIVATE),
        ("<html><title>Error 404 (Not Found)</title></html>", Status.UNAVAILABLE),
        ("<html>Something new</html>", Status.WEB_PAGE),
        ("<html>We detected unusual traffic from your network</html>", Status.BOT_CHECK),
        (WARNING.replace("drive.usercontent.google.com", "evil.example"), Status.WEB_PAGE),
        (WARNING.replace("drive.usercontent.google.com", "drive.google.com@evil.example"), Status.WEB_PAGE),
        (WARNING.replace("https://", "file://"), Status.WEB_PAGE),
    ],
)
def test_every_other_page_is_a_reason(page: str, status: Status) -> None:
    with pytest.raises(DownloadFailed) as caught:
        confirmed_url(page)
    assert caught.value.status is status


@pytest.fixture
def google(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The test's server in Google's place."""
    monkeypatch.setattr(drive, "DOWNLOAD", f"{server.url}/download")
    return server


ARCHIVE = zip_of({"AVE_Dataset/AVE/a.mp4": bytes(range(256)) * 400})


def fetch(tmp_path: Path) -> Any:
    fetcher = ArchiveFetcher(ArchiveSource(drive=FILE_ID))
    fetcher.limits = Limits(attempts=1)
    return fetcher.fetch(WantedClip("a", "a", math.nan, math.nan), tmp_path / "a")


def warning_of(server: Any) -> bytes:
    """The page that asks back, with the test's server in Google's place."""
    return WARNING.replace("https://drive.usercontent.google.com", server.url).encode()


def test_a_large_file_comes_after_the_warning_and_is_continued_after_a_break(
    google: Any, tmp_path: Path
) -> None:
    """Google's final URL is another each time; the partial file belongs to the id."""

    def answer(request: Any) -> None:
        assert f"id={FILE_ID}" in request.path
        if "confirm=t" in request.path:
            google.answers["/file"](request)
        else:
            request.reply(200, warning_of(google), Content_Type="text/html; charset=utf-8")

    google.answers["/download"] = answer
    google.file("/file", ARCHIVE, cut=30_000)
    assert fetch(tmp_path).status is Status.NETWORK_ERROR
    google.file("/file", ARCHIVE)
    outcome = fetch(tmp_path)
    assert outcome.status is Status.PRESENT
    assert outcome.found_in == "archive Google Drive"
    assert [asked for _, asked in google.asked] == [None, None, "bytes=30000-", "bytes=30000-"]


@pytest.mark.parametrize("code", [200, 403])
def test_a_quota_that_is_used_up_is_later_whatever_the_code(google: Any, tmp_path: Path, code: int) -> None:
    google.answers["/download"] = lambda request: request.reply(
        code, QUOTA.encode(), Content_Type="text/html"
    )
    outcome = fetch(tmp_path)
    assert outcome.status is Status.RATE_LIMITED
    assert "download it by hand" in outcome.reason
    assert google.count("/download") == 1


def test_a_page_that_always_leads_to_itself_ends(google: Any, tmp_path: Path) -> None:
    page = warning_of(google)
    google.answers["/download"] = lambda request: request.reply(200, page, Content_Type="text/html")
    outcome = fetch(tmp_path)
    assert outcome.status is Status.MISSING
    assert "redirects" in outcome.reason
