"""AVE's study with a web server in the place of its sources: more than a third of the clips fails, each in a way of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.download.conftest import Server, serve

from .conftest import ROOT, Checkout

pytestmark = pytest.mark.slow


def redirect(request: Any) -> None:
    request.reply(302, Location=request.path)


def web_page(request: Any) -> None:
    request.reply(200, b"<!DOCTYPE html><html><body>Please sign in</body></html>", Content_Type="text/html")


def busy(request: Any) -> None:
    request.reply(429, Retry_After="86400")


def refusing(code: int) -> Callable[[Any], None]:
    return lambda request: request.reply(code)


def too_long(request: Any) -> None:
    request.reply(200, b"abc", Content_Length="1000")


def damaged(request: Any) -> None:
    request.reply(200, b"\0\0\0\x18ftypisom" + bytes(4000))


def slow(request: Any) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "video/mp4")
    request.send_header("Content-Length", "100000")
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b"\0" * 1000)
        time.sleep(0.1)


def changing(server: Server, path: str, body: bytes) -> Callable[[Any], None]:
    """The beginning of another version first, and the connection breaks; then what it is now."""

    def first(request: Any) -> None:
        server.file(path, b"\1" * len(body), version='"old"', cut=len(body) // 2)
        server.answers[path](request)
        server.file(path, body, version='"new"')

    return first


WAYS = {
    "404": (refusing(404), "unavailable"),
    "410": (refusing(410), "unavailable"),
    "403": (refusing(403), "private"),
    "500": (refusing(500), "network_error"),
    "429": (busy, "rate_limited"),
    "page": (web_page, "web_page"),
    "loop": (redirect, "refused_url"),
    "cut": (too_long, "network_error"),
    "slow": (slow, "timed_out"),
    "damaged": (damaged, "corrupt"),
}


def ave_study(checkout: Checkout, url: str) -> None:
    """workflow/configs/ave.yaml with other sources, small networks and short training."""
    study = yaml.safe_load((ROOT / "workflow" / "configs" / "ave.yaml").read_text(encoding="utf-8"))
    source = {"kind": "http", "url": f"{url}/{{source}}.mp4", "allow_private": True, "timeout": 5.0}
    study["dataset"] |= {"name": "small", "annotations": "data/annotations", "sources": [source]}
    small = {"weights": "random", "image_size": 32, "fps": 1}
    study["extractors"] = {
        "sound": {"backbone": "vggish", "weights": "random"},
        "look": {**study["extractors"]["visual_map"], **small, "backbone": "resnet18"},
    }
    study |= {
        "bundles": [["sound", "look"]],
        "tables": ["small"],
        "figures": [],
        "backbones": {},
    }
    study |= {"shard_size": 12, "seeds": [0], "training": {"epochs": 1, "batch_size": 8}, "recipes": {}}
    study["experiments"] = {}
    (checkout.root / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


def fill(server: Server, root: Path) -> dict[str, str]:
    """Serve the clips, more than a third of them in a bad way each; what is to become of those, by their id."""
    expected = {}
    clips = sorted((root / "data" / "clips").glob("*.mp4"))
    ways = list(WAYS.values())
    for number, clip in enumerate(clips):
        path = f"/{clip.name}"
        server.file(path, clip.read_bytes())
        if number % 12 in (0, 3, 5, 6, 9) and len(expected) < len(ways):
            server.answers[path], expected[clip.stem] = ways[len(expected)]
        elif number % 12 == 1:
            server.answers[path] = changing(server, path, clip.read_bytes())
    assert len(expected) == len(ways)
    return expected


def avpipe(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "avpipe", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def test_from_annotation_files_to_a_table_with_more_than_a_third_of_the_clips_failing(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    results = checkout.root / "results" / "small"
    results.rename(checkout.root / "before")
    with serve() as server:
        ave_study(checkout, server.url)
        expected = fill(server, checkout.root)
        checkout.run()
        clips = pd.read_parquet(results / "clips.parquet").set_index("source")
        bad = clips[clips["status"] != "present"]
        assert bad["status"].to_dict() == expected
        assert (bad["reason"] != "").all()
        counts = json.loads(
            avpipe(checkout.root, "download", "status", "--results", "results/small", "--json")
        )
        assert sum(split["named"] for split in counts.values()) == len(clips)
        assert sum(split.get("present", 0) for split in counts.values()) == len(clips) - len(expected)
        note = pd.read_csv(results / "tables" / "small.csv")["note"]
        assert note.str.contains(r"test clips \d+ of \d+").all()

        asked = len(server.asked)
        assert "Nothing to be done" in checkout.run().stderr
        assert len(server.asked) == asked, "a second run asked the server again"

        later = next(source for source, status in expected.items() if status == "rate_limited")
        server.file(f"/{later}.mp4", (checkout.root / "data" / "clips" / f"{later}.mp4").read_bytes())
        avpipe(checkout.root, "download", "retry", "--study", "study.yaml", "--reason", "rate_limited")
        checkout.run("results/small/clips.parquet")
        assert pd.read_parquet(results / "clips.parquet").set_index("source")["status"][later] == "present"
        assert {path for path, _ in server.asked[asked:]} == {f"/{later}.mp4"}
