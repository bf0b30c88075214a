"""Programs are found where they are installed, and only if they can do the work."""

from avpipe import programs
from avpipe.programs import ffmpeg_binary, ffmpeg_version, javascript_runtimes


def test_there_is_an_ffmpeg_with_libx264():
    assert programs._encodes_x264(ffmpeg_binary())
    assert ffmpeg_version()


def test_an_ffmpeg_without_libx264_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\necho ' V..... mpeg4 '\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    ffmpeg_binary.cache_clear()
    try:
        assert ffmpeg_binary() != str(tmp_path / "ffmpeg")
    finally:
        ffmpeg_binary.cache_clear()


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
