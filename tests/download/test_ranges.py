"""Bytes of a file that are asked for in any order, interrupted anywhere: all come right, and none comes twice."""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avpipe.download import ranges as module
from avpipe.download.ranges import Ranges, Served, Wanted

BODY = bytes(range(256)) * 4


class Answer:
    """Of a server that keeps to the rules, unless told otherwise; the connection breaks after `cut` bytes."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, cut: int | None) -> None:
        self.status, self.reason, self.headers, self.body = status, "Words", headers, body
        self.left, self.place, self.closed = cut, 0, False

    def read(self, amount: int) -> bytes:
        if self.left is not None:
            amount = min(amount, self.left)
            self.left -= amount
        piece = self.body[self.place : self.place + amount]
        self.place += len(piece)
        return piece

    def close(self) -> None:
        self.closed = True


class Site:
    """What was asked of it, and how many bytes were read of each answer."""

    def __init__(self, body: bytes = BODY, version: str = '"1"') -> None:
        self.body, self.version, self.cut = body, version, None
        self.asked: list[tuple[int, int, Answer]] = []

    def __call__(self, wanted: Wanted) -> Answer:
        assert wanted is not None
        first, last = wanted
        assert last is not None
        end = min(last + 1, len(self.body))
        headers = {
            "Content-Range": f"bytes {first}-{end - 1}/{len(self.body)}",
            "ETag": self.version,
            "Content-Type": "video/mp4",
        }
        answer = Answer(206, headers, self.body[first:end], self.cut)
        self.asked.append((first, last, answer))
        return answer

    def whole(self, wanted: Wanted) -> Answer:
        """As when called, also for all bytes to the end."""
        assert wanted is not None
        return self((wanted[0], len(self.body) - 1 if wanted[1] is None else wanted[1]))

    def brought(self) -> list[int]:
        """Number of each byte that was read, in order."""
        return [first + place for first, _, answer in self.asked for place in range(answer.place)]


def read(ranges: Ranges, first: int, count: int) -> bytes:
    """As a program that goes away when it has what it wants."""
    reply, got = ranges.reply(first), b""
    for piece in reply.body:
        got += piece
        if len(got) >= count:
            break
    reply.body.close()
    return got[:count]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 100)
    monkeypatch.setattr(module, "SAMPLE", 32)
    monkeypatch.setattr(module, "_CHUNK", 16)
    monkeypatch.setattr(module, "WAITS", (0.0,))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_bytes_in_any_order_interrupted_anywhere_come_right_and_once(
    small: None, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, site = tmp_path_factory.mktemp("ranges") / "kept", Site()
    ranges = Ranges(folder, site)
    for _ in range(data.draw(st.integers(1, 8))):
        first = data.draw(st.integers(0, len(BODY) - 1))
        count = data.draw(st.integers(1, 400))
        site.cut = data.draw(st.none() | st.integers(0, 150))
        if data.draw(st.booleans()):
            ranges = Ranges(folder, site)  # another process
        with contextlib.suppress(OSError) if site.cut is not None else contextlib.nullcontext():
            assert read(ranges, first, count) == BODY[first : first + count]
    brought = site.brought()
    assert len(brought) == len(set(brought))


def test_no_more_than_a_piece_is_asked_for_ahead_of_need(small: None, tmp_path: Path) -> None:
    site = Site()
    read(Ranges(tmp_path / "kept", site), 500, 10)
    assert [(first, last) for first, last, _ in site.asked] == [(500, 599)]


def test_what_is_here_needs_no_network(tmp_path: Path) -> None:
    read(Ranges(tmp_path / "kept", Site()), 0, len(BODY))

    def dead(*_: int) -> Answer:
        raise AssertionError

    again = Ranges(tmp_path / "kept", dead).reply(7)
    assert (again.status, b"".join(again.body)) == (206, BODY[7:])
    assert again.headers["Content-Range"] == f"bytes 7-{len(BODY) - 1}/{len(BODY)}"
    assert again.headers["Content-Type"] == "video/mp4"


@pytest.mark.parametrize("changed", [Site(version='"2"'), Site(BODY[:-1]), Site(version='W/"1"')])
def test_bytes_of_two_versions_are_never_mixed(small: None, tmp_path: Path, changed: Site) -> None:
    read(Ranges(tmp_path / "kept", Site()), 0, 50)
    ranges = Ranges(tmp_path / "kept", changed)
    with pytest.raises(OSError, match="another one now"):
        read(ranges, 0, len(BODY))
    assert ranges.unfit
    assert read(Ranges(tmp_path / "kept", changed), 0, 2000) == changed.body


def test_without_a_mark_of_the_version_a_sample_tells_whether_it_is_the_same(
    small: None, tmp_path: Path
) -> None:
    site = Site(version="")
    ranges = Ranges(tmp_path / "kept", site)
    assert read(ranges, 0, 150) + read(ranges, 0, 150) == 2 * BODY[:150]
    brought = site.brought()
    assert len(brought) == len(set(brought)), "the same process trusts the server"
    again = Site(version="")
    assert read(Ranges(tmp_path / "kept", again), 0, len(BODY)) == BODY
    came = again.brought()
    assert [*came[:32], *came[32:]] == [*range(32), *range(len(brought), len(BODY))], "the sample, the rest"


@pytest.mark.parametrize(
    "other",
    [
        bytes(reversed(BODY)),
        BODY[:31] + b"x" + BODY[32:],
        BODY[:-1],
    ],
)
@pytest.mark.parametrize("here", [10, 150])
def test_without_a_mark_of_the_version_another_file_is_never_mixed_in(
    small: None, tmp_path: Path, other: bytes, here: int
) -> None:
    read(Ranges(tmp_path / "kept", Site(version="")), 0, here)
    site = Site(other, version="")
    assert read(Ranges(tmp_path / "kept", site), 0, len(BODY)) == other
    brought = site.brought()
    assert len(brought) == len(set(brought)), "the sample counts as received"


def test_a_sample_that_breaks_off_proves_nothing(small: None, tmp_path: Path) -> None:
    read(Ranges(tmp_path / "kept", Site(version="")), 0, 150)
    site = Site(BODY[:100] + b"another file" * 77, version="")
    site.cut = 20
    ranges = Ranges(tmp_path / "kept", site)
    with pytest.raises(OSError, match="broke"):
        ranges.reply(0)
    assert site.asked[-1][2].closed
    site.cut = None
    assert read(ranges, 0, 32) == BODY[:32], "now it is compared"
    assert len(site.asked) == 2


@pytest.mark.parametrize(
    "content_range", ["bytes 3-9/1024", "bytes 0-1024/1024", "bytes 0-9/*", "", "bytes 9-0/1024"]
)
def test_an_answer_that_is_not_the_first_bytes_asked_for_is_an_error(
    tmp_path: Path, content_range: str
) -> None:
    answer = Answer(206, {"Content-Range": content_range}, BODY[:10], None)
    with pytest.raises(OSError, match="sent what it was not asked for"):
        Ranges(tmp_path / "kept", lambda *_: answer).reply(0)
    assert answer.closed
    assert not (tmp_path / "kept").exists()


def test_a_body_without_ranges_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    answers = [Answer(200, {"Content-Length": "1024"}, BODY, cut) for cut in (100, None)]
    ranges = Ranges(tmp_path / "kept", lambda *_: answers.pop(0))
    with pytest.raises(OSError, match="broke"):
        list(ranges.reply(0).body)
    assert ranges.missing == {100: None}
    assert b"".join(ranges.reply(0).body) == BODY
    assert ranges.missing == {}


def test_a_server_that_marks_versions_now_is_not_held_against_a_sample(small: None, tmp_path: Path) -> None:
    read(Ranges(tmp_path / "kept", Site(version="")), 0, 150)
    site = Site()
    assert read(Ranges(tmp_path / "kept", site), 0, len(BODY)) == BODY
    assert len(site.brought()) == len(BODY)


def test_bytes_up_to_a_last_one_and_none_after_it_are_asked_for(small: None, tmp_path: Path) -> None:
    site = Site()
    ranges = Ranges(tmp_path / "kept", site)
    read(ranges, 0, 1)
    site.asked.clear()
    for first, last in ((500, 519), (510, 640), (1000, 5000)):
        reply = ranges.reply(first, last)
        assert b"".join(reply.body) == BODY[first : last + 1]
        assert reply.headers["Content-Range"] == f"bytes {first}-{min(last, len(BODY) - 1)}/{len(BODY)}"
        assert int(reply.headers["Content-Length"]) == len(BODY[first : last + 1])
    assert [(first, last) for first, last, _ in site.asked] == [
        (500, 519),
        (520, 619),
        (620, 640),
        (1000, 1023),
    ]


def test_a_piece_is_asked_for_again_and_a_refusal_is_not(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module, "WAITS", (1.0, 4.0))
    monkeypatch.setattr(module.time, "sleep", slept.append)
    site = Site()
    troubles = [OSError("reset"), Answer(503, {}, b"", None)]

    def moody(wanted: Wanted) -> Answer:
        assert wanted is not None
        if wanted[0] >= 100 and troubles:
            trouble = troubles.pop(0)
            if isinstance(trouble, OSError):
                raise trouble
            return trouble
        return site(wanted)

    assert read(Ranges(tmp_path / "kept", moody), 0, 300) == BODY[:300]
    assert slept == [1.0, 4.0]
    site.cut = 40  # more than a sample comes each time
    assert read(Ranges(tmp_path / "more", site), 0, 300) == BODY[:300]
    assert set(slept[2:]) == {1.0}
    slept.clear()
    site.cut = 10
    with pytest.raises(OSError, match="broke"):
        read(Ranges(tmp_path / "less", site), 0, 300)
    assert slept == [1.0, 4.0]
    site.cut = 0
    with pytest.raises(OSError, match="broke"):
        read(Ranges(tmp_path / "none", site), 0, 300)
    troubles += [Answer(429, {"Retry-After": "70"}, b"", None)]
    site.cut = None
    ranges = Ranges(tmp_path / "refused", moody)
    slept.clear()
    with pytest.raises(OSError, match="HTTP Error 429"):
        read(ranges, 0, 300)
    assert slept == []
    ((_, refusal),) = ranges.missing.items()
    assert refusal is not None
    assert refusal.wait == 70


def test_a_write_that_is_cut_short_is_finished(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.open

    class Stingy:
        """A file that takes three bytes at a time."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Stingy":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, piece: bytes) -> int:
            return self.file.write(bytes(piece)[:3])

    def stingy(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        file = original(self, mode, *rest, **options)
        return Stingy(file) if mode == "r+b" else file

    monkeypatch.setattr(Path, "open", stingy)
    ranges = Ranges(tmp_path / "kept", Site())
    read(ranges, 0, 150)
    assert read(ranges, 0, 150) == BODY[:150]
    assert (tmp_path / "kept" / "0").read_bytes()[:150] == BODY[:150]


def test_a_file_that_was_begun_anew_by_another_gets_no_hole(small: None, tmp_path: Path) -> None:
    site = Site()
    ranges = Ranges(tmp_path / "kept", site)
    read(ranges, 0, 100)

    def interrupted(wanted: Wanted) -> Answer:
        answer = site(wanted)
        (tmp_path / "kept" / "0").unlink()
        return answer

    ranges.ask = interrupted
    read(ranges, 100, 50)
    assert not (tmp_path / "kept" / "0").exists() or (tmp_path / "kept" / "0").read_bytes()[:1] == BODY[:1]
    assert read(Ranges(tmp_path / "kept", site), 90, 60) == BODY[90:150]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"total": "x"}', '{"total": null, "validator": ""}'])
def test_what_lies_there_without_a_note_is_not_used(small: None, tmp_path: Path, note: str) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "0").write_bytes(b"x" * 64)
    (kept / "note.json").write_text(note)
    assert read(Ranges(kept, Site()), 0, 64) == BODY[:64]
    assert json.loads((kept / "note.json").read_text())["total"] == len(BODY)


def test_the_end_of_the_file_is_known(tmp_path: Path) -> None:
    ranges = Ranges(tmp_path / "kept", Site())
    read(ranges, 0, 1)
    reply = ranges.reply(len(BODY))
    assert (reply.status, b"".join(reply.body)) == (416, b"")


@pytest.mark.parametrize("status", [200, 403, 404, 429, 500])
def test_an_answer_without_ranges_is_passed_on_and_not_kept(tmp_path: Path, status: int) -> None:
    answer = Answer(status, {"Content-Length": "3"}, b"abc", None)
    ranges = Ranges(tmp_path / "kept", lambda *_: answer)
    reply = ranges.reply(0)
    assert (reply.status, reply.reason, b"".join(reply.body)) == (status, "Words", b"abc")
    assert reply.headers == {"Content-Length": "3"}
    assert [*ranges.missing] == ([] if status == 200 else [0])
    assert all(ranges.missing.values())
    assert answer.closed
    assert not (tmp_path / "kept").exists()


def test_a_refusal_in_the_middle_leaves_what_came_and_is_forgotten_when_the_bytes_come(
    small: None, tmp_path: Path
) -> None:
    read(Ranges(tmp_path / "kept", Site()), 0, 50)
    answers = [Answer(429, {}, b"", None)]
    site = Site()
    ranges = Ranges(tmp_path / "kept", lambda wanted: answers.pop() if answers else site(wanted))
    with pytest.raises(OSError, match="HTTP Error 429: Words"):
        read(ranges, 0, 200)
    ((lacking, refusal),) = ranges.missing.items()
    assert lacking == (tmp_path / "kept" / "0").stat().st_size >= 50
    assert refusal is not None
    assert read(ranges, 0, 200) == BODY[:200]
    assert ranges.missing == {}


@pytest.mark.parametrize(
    "odd",
    [
        lambda site: Answer(200, {"Content-Length": "1024"}, BODY, None),
        lambda site: Answer(416, {"Content-Range": "bytes */1024"}, b"", None),
        lambda site: site((0, 9)),
        lambda site: encoded(site((100, 199))),
    ],
)
def test_a_later_answer_that_does_not_fit_ends_it_all(
    small: None, tmp_path: Path, odd: Callable[[Site], Answer]
) -> None:
    ranges = Ranges(tmp_path / "kept", Site())
    read(ranges, 0, 100)
    ranges.ask = lambda _: odd(Site())
    with pytest.raises(OSError, match="sent what it was not asked for"):
        read(ranges, 0, 200)
    assert ranges.unfit
    assert not (tmp_path / "kept").exists()


def encoded(answer: Answer) -> Answer:
    answer.headers = {**answer.headers, "Content-Encoding": "gzip"}
    return answer


def test_a_piece_is_compared_with_the_sites_although_it_is_here(small: None, tmp_path: Path) -> None:
    read(Ranges(tmp_path / "kept", Site(), "list"), 0, len(BODY))
    site = Site()
    assert read(Ranges(tmp_path / "kept", site, "list"), 0, len(BODY)) == BODY
    assert [(first, last) for first, last, _ in site.asked] == [(0, 0)], "an ETag tells"
    other = Site(bytes(reversed(BODY)), version='"2"')
    assert read(Ranges(tmp_path / "kept", other, "list"), 0, len(BODY)) == other.body


def test_a_whole_file_is_asked_for_at_once_and_what_is_left_of_it_too(small: None, tmp_path: Path) -> None:
    site = Site()
    site.cut = 20
    reply = Ranges(tmp_path / "kept", site.whole).reply()
    with pytest.raises(OSError, match="broke"):
        b"".join(reply.body)
    site.asked.clear()
    site.cut = None
    reply = Ranges(tmp_path / "kept", site.whole).reply()
    assert (reply.status, b"".join(reply.body)) == (200, BODY)
    ((first, last, _),) = site.asked
    assert first >= 20
    assert last == len(BODY) - 1


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_server_that_does_not_understand_ranges_is_asked_for_the_file(tmp_path: Path, status: int) -> None:
    def old(wanted: Wanted) -> Answer:
        return (
            Answer(status, {}, b"", None) if wanted else Answer(200, {"Content-Length": "1024"}, BODY, None)
        )

    ranges = Ranges(tmp_path / "kept", old)
    assert b"".join(ranges.reply().body) == BODY
    assert ranges.missing == {}


def test_of_two_places_that_did_not_come_one_may_come(tmp_path: Path) -> None:
    served = Served(lambda _: Answer(404, {}, b"", None))
    served.reply(0, 9)
    served.reply(500, 509)
    served.ask = Site()
    b"".join(served.reply(500, 509).body)
    assert [*served.missing] == [0]


def test_an_encoded_body_has_no_length(tmp_path: Path) -> None:
    answer = encoded(Answer(200, {"Content-Length": "3"}, BODY, None))
    reply = Ranges(tmp_path / "kept", lambda _: answer).reply()
    assert reply.headers == {}
    assert b"".join(reply.body) == BODY


def test_what_is_passed_on_says_what_did_not_come(tmp_path: Path) -> None:
    site = Site()
    served = Served(site)
    assert b"".join(served.reply(100, 199).body) == BODY[100:200]
    assert (served.missing, served.given) == ({}, True)
    site.cut = 30
    with pytest.raises(OSError, match="broke"):
        list(served.reply(300, 399).body)
    assert served.missing == {330: None}
    site.cut = None
    reply = served.reply(320, 399)
    assert (reply.status, reply.headers["Content-Range"]) == (206, "bytes 320-399/1024")
    assert b"".join(reply.body) == BODY[320:400]
    assert served.missing == {}
    served.ask = dead
    with pytest.raises(OSError, match="no network"):
        served.reply(7, 8)
    assert served.missing == {7: None}


def dead(_: Wanted) -> Answer:
    raise OSError("no network")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_told_at_once(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    site = Site()
    ranges = Ranges(tmp_path / "kept", site)
    monkeypatch.setattr(module, "WAITS", (1000.0,))

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ranges, "_keep", full)
    with pytest.raises(OSError, match=os.strerror(number)):
        read(ranges, 0, 10)
    assert len(site.asked) == 1
