import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from avpipe.files import (
    OutputError,
    locked,
    move_whole,
    output_errors,
    read_json,
    sha256_of,
    whole_file,
    write_json,
    write_text,
)


def test_a_file_appears_whole_with_its_folder(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "text\n")
    assert (tmp_path / "a" / "b.txt").read_text() == "text\n"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_failure_while_writing_keeps_the_old_content_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_keeps_the_old_content(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = (
        "import sys, time; from avpipe.files import whole_file\n"
        f"with whole_file({str(path)!r}) as t:\n"
        "    t.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission denied"), (errno.EROFS, "read-only")],
)
def test_errors_of_the_file_system_become_advice(tmp_path, number, advice):
    with pytest.raises(OutputError, match=advice) as caught, whole_file(tmp_path / "x.bin"):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path / "x.bin") in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_other_errors_are_not_changed(tmp_path):
    with pytest.raises(FileNotFoundError), output_errors(tmp_path / "x"):
        (tmp_path / "missing").read_text()


def test_a_full_disk_is_named(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(OutputError, match="disk is full"),
        output_errors(tmp_path / "x"),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x" * 100_000)


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "inner", "text")


def test_json_round_trip_and_error_with_the_file_name(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2], "a": None})
    assert read_json(tmp_path / "a.json") == {"a": None, "b": [1, 2]}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_nan_is_refused_rather_than_written_as_invalid_json(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_finished_part_gets_its_final_name(tmp_path):
    (tmp_path / "a.part").write_text("new")
    (tmp_path / "a.txt").write_text("old")
    move_whole(tmp_path / "a.part", tmp_path / "a.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_lock_is_held_by_one_process_and_freed_by_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from avpipe.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / "new" / "x.lock"
    process = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Timeout):
        locked(lock, timeout=0)
    process.kill()
    process.wait()
    process.stdout.close()
    with locked(lock, timeout=0), pytest.raises(Timeout):
        locked(lock, timeout=0)


def test_a_lock_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="folder is needed"):
        locked(tmp_path / "file" / "lock")


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "x").startswith("ba7816bf8f01cfea414140de5dae2223")
