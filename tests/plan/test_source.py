"""A source says what it lacks, what does not belong to it, and what of it makes results stale."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from avpipe.plan.section import ConfigError
from avpipe.plan.source import HuggingFaceSource, LocalSource, YouTubeSource, parse_source
from avpipe.plan.study import validate_study

SHA256 = "0" * 64
GOOD = (
    {"kind": "local", "path": "videos"},
    {"kind": "local", "path": "videos.tar", "pattern": "{clip}.mp4"},
    {"kind": "http", "url": "https://example.org/{source}.mp4", "allow_private": True},
    {"kind": "archive", "path": "AVE.zip"},
    {"kind": "archive", "url": "https://example.org/AVE.tar.gz", "sha256": SHA256},
    {"kind": "archive", "drive": "1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK", "pattern": "AVE/{source}.mp4"},
    {"kind": "huggingface", "repo": "owner/ave", "revision": "refs/pr/1", "token": "$HF_TOKEN"},
    {"kind": "huggingface", "repo": "owner/ave", "archive": "videos.zip", "sha256": SHA256},
    {"kind": "youtube", "rate": 100, "margin": 2, "cookies": "cookies.txt", "timeout": 60},
)


@pytest.mark.parametrize("source", GOOD, ids=json.dumps)
def test_every_kind_survives_the_way_to_a_job(source: dict[str, object]) -> None:
    read = parse_source(source)
    assert parse_source(json.loads(read.to_json())) == read
    assert json.loads(read.to_json()) == source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "local"}, "sources.0.path: is missing"),
        (
            {"kind": "local", "path": "x", "url": "https://x"},
            "sources.0.url: no such key; known: excerpts, kind, max_bytes, path, pattern",
        ),
        ({"kind": "http", "url": "https://example.org/a.mp4"}, "sources.0.url: needs {source} or {clip}"),
        ({"kind": "http", "url": "file:///{source}"}, "sources.0.url: starts with http"),
        ({"kind": "archive"}, "exactly one of `path`, `url` and `drive`"),
        ({"kind": "archive", "path": "x.zip", "drive": "1FjKwe79e0u96"}, "exactly one of"),
        ({"kind": "archive", "url": "ftp://x/y.zip"}, "`url` of an archive starts with http"),
        ({"kind": "archive", "path": "x.zip", "sha256": "abc"}, "sources.0.sha256: String should match"),
        ({"kind": "archive", "drive": "https://drive.google.com/x"}, "sources.0.drive: String should match"),
        (
            {"kind": "archive", "path": "x.zip", "pattern": "AVE/a.mp4"},
            "sources.0.pattern: pattern 'AVE/a.mp4': needs {source} or {clip}",
        ),
        (
            {"kind": "local", "path": "x", "pattern": "{name}.mp4"},
            "pattern '{name}.mp4': needs {source} or {clip}, and may have no other {...}",
        ),
        (
            {"kind": "local", "path": "x", "pattern": "../{source}.mp4"},
            "sources.0.pattern: pattern '../{source}.mp4': is below the source's folder",
        ),
        ({"kind": "huggingface"}, "sources.0.repo: is missing"),
        ({"kind": "huggingface", "repo": "../x"}, "sources.0.repo: String should match"),
        ({"kind": "huggingface", "repo": "a/b", "revision": "x/../y"}, "`revision` is a branch"),
        ({"kind": "huggingface", "repo": "a/b", "archive": "../x.zip"}, "`archive` is the path"),
        ({"kind": "huggingface", "repo": "a/b", "sha256": SHA256}, "`sha256` is that of `archive`"),
        ({"kind": "youtube", "margin": float("inf")}, "sources.0.margin: Input should be a finite number"),
        ({"kind": "youtube", "timeout": 1e300}, "sources.0.timeout: Input should be less than"),
        ({"kind": "youtube", "rate": 0}, "sources.0.rate: Input should be greater than 0"),
        ({"kind": "youtube", "rat": 3}, "sources.0.rat: no such key; did you mean 'rate'?"),
        ({"kind": "torrent"}, "sources.0: Input tag 'torrent'"),
    ],
)
def test_a_mistake_is_named_with_its_key(source, message):
    with pytest.raises(ConfigError) as caught:
        validate_study({"dataset": {"name": "d", "kind": "ave", "sources": [source]}})
    assert message in str(caught.value)


@given(st.text(max_size=30))
def test_ids_that_become_parts_of_urls_have_no_characters_of_urls(text):
    for key, other in (("drive", {"kind": "archive"}), ("repo", {"kind": "huggingface"})):
        try:
            parse_source({**other, key: text})
        except ValidationError:
            continue
        assert not set(text) & set("?#%&@: \\\n")


def test_speed_patience_and_secrets_make_nothing_stale() -> None:
    slow = YouTubeSource(rate=10, cookies="a", proxy="http://p", timeout=5, cookies_from_browser="firefox")
    assert slow.identity() == YouTubeSource().identity()
    assert YouTubeSource(margin=2).identity() != slow.identity()
    private = HuggingFaceSource(repo="a/b", token="$HUSH")
    assert "HUSH" not in private.identity()


@pytest.mark.parametrize(
    ("path", "archive"),
    [("a.zip", True), ("a.TAR.GZ", True), ("a.tgz", True), ("a", False), ("a.mp4", False)],
)
def test_a_local_path_is_an_archive_by_its_name(path: str, archive: bool) -> None:
    assert (LocalSource(path=path).local_archive == path) is archive
