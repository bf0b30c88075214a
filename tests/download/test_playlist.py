"""A list of pieces is read here, and its pieces get places of ours."""

import pytest

from avpipe.download import playlist as module
from avpipe.download.playlist import Playlist

MASTER = """#EXTM3U
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="English",URI="sound/list.m3u8"
#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID="c",NAME="none"
#EXT-X-STREAM-INF:BANDWIDTH=100000,AUDIO="a"
# a remark
https://other.example/video.m3u8?token=1
#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI="iframes.m3u8"
"""
MEDIA = """#EXTM3U
#EXT-X-TARGETDURATION:10
#EXT-X-KEY:METHOD=AES-128,URI="/key?id=\\1",IV=0x01
#EXT-X-MAP:URI="init.mp4",BYTERANGE="700@0"
#EXTINF:10.0,
#EXT-X-BYTERANGE:1000@700
all.mp4

#EXTINF:10.0,
data:video/mp4;base64,AAAA
#EXTINF:10.0,a title\u2028of one line
file:///etc/passwd
  # a remark\0http://other.example/hidden.ts
HTTPS://other.example/a.ts
http://[x/b.ts
#EXT-X-ENDLIST
"""
OURS = "http://127.0.0.1:1"


class Site:
    """One answer, at an address that a redirect led to."""

    url = "http://site.example/moved/list.m3u8"
    reason = "Words"

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.body, self.status, self.headers, self.closed = body, status, {"Retry-After": "7"}, False

    def read(self, amount: int) -> bytes:
        piece, self.body = self.body[:amount], self.body[amount:]
        return piece

    def close(self) -> None:
        self.closed = True


def rewritten(body: str) -> tuple[list[str], list[tuple[str, bool]]]:
    """The lines of the list as it is served, and what got a place, with whether it is a list."""
    placed: list[tuple[str, bool]] = []

    def place(url: str, is_list: bool) -> str:
        placed.append((url, is_list))
        return f"{OURS}/{len(placed)}"

    site = Site(body.encode())
    reply = Playlist(lambda _: site, place).reply(0)
    served = b"".join(reply.body)
    assert reply.status == 200
    assert reply.headers == {"Content-Type": module.TYPE, "Content-Length": str(len(served))}
    assert site.closed
    return served.decode().split("\n")[:-1], placed


def test_a_list_of_lists_leads_to_lists_of_ours() -> None:
    lines, placed = rewritten(MASTER)
    assert placed == [
        ("http://site.example/moved/sound/list.m3u8", True),
        ("https://other.example/video.m3u8?token=1", True),
        ("http://site.example/moved/iframes.m3u8", True),
    ]
    expected = MASTER.replace("sound/list.m3u8", f"{OURS}/1")
    expected = expected.replace("https://other.example/video.m3u8?token=1", f"{OURS}/2")
    assert lines == expected.replace("iframes.m3u8", f"{OURS}/3").splitlines()


def test_pieces_keys_and_beginnings_get_places_and_what_is_not_on_the_web_stays_as_it_is() -> None:
    lines, placed = rewritten(MEDIA)
    assert placed == [
        ("http://site.example/key?id=\\1", False),
        ("http://site.example/moved/init.mp4", False),
        ("http://site.example/moved/all.mp4", False),
        ("http://other.example/hidden.ts", False),
        ("HTTPS://other.example/a.ts", False),
    ]
    assert f'#EXT-X-KEY:METHOD=AES-128,URI="{OURS}/1",IV=0x01' in lines
    assert f'#EXT-X-MAP:URI="{OURS}/2",BYTERANGE="700@0"' in lines
    assert lines[5:7] == ["#EXT-X-BYTERANGE:1000@700", f"{OURS}/3"]
    assert lines[-5:-1] == ["# a remark", f"{OURS}/4", f"{OURS}/5", "http://[x/b.ts"]
    assert {"data:video/mp4;base64,AAAA", "file:///etc/passwd", "#EXT-X-ENDLIST"} < set(lines)


def test_a_refusal_is_passed_on_and_forgotten_when_the_list_comes() -> None:
    answers = [Site(b"", 429), Site(b"#EXTM3U\n")]
    playlist = Playlist(lambda _: answers.pop(0), lambda url, is_list: url)
    reply = playlist.reply(0)
    assert (reply.status, reply.reason, b"".join(reply.body)) == (429, "Words", b"")
    ((_, refusal),) = playlist.missing.items()
    assert refusal is not None
    assert refusal.wait == 7
    assert b"".join(playlist.reply(0, 5).body) == b"#EXTM3U\n"
    assert playlist.missing == {}


def test_a_list_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 1 << 20)
    site = Site(bytes(2 << 20))
    with pytest.raises(OSError, match="more than 1 MiB"):
        Playlist(lambda _: site, lambda url, is_list: url).reply(0)
    assert site.closed
