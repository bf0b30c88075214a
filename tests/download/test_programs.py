"""JavaScript runtimes for yt-dlp are found."""

from avpipe.download.programs import javascript_runtimes


def test_javascript_runtimes_are_found_on_the_path_and_beside_python_best_first(tmp_path, monkeypatch):
    on_path, beside = tmp_path / "path", tmp_path / "venv"
    for folder, name in ((on_path, "bun"), (on_path, "qjs"), (beside, "deno")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(on_path))
    assert javascript_runtimes(beside / "python") == {
        "deno": str(beside / "deno"),
        "quickjs": str(on_path / "qjs"),
        "bun": str(on_path / "bun"),
    }
    monkeypatch.setenv("PATH", str(tmp_path))
    assert javascript_runtimes(tmp_path / "elsewhere" / "python") == {}
