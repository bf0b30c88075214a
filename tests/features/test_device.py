"""Which GPU a job gets, with PyTorch's answers replaced: the tests run where there is none."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from avpipe.features import device
from avpipe.features.device import DeviceError, claim_device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"GPU-{index}")
    )
    monkeypatch.setattr(device, "_WAIT_SECONDS", 0.01)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_without_a_gpu_jobs_run_on_the_processor_side_by_side(wanted: str, tmp_path: Path) -> None:
    with claim_device(wanted, tmp_path) as first, claim_device(wanted, tmp_path) as second:
        assert first == second == torch.device("cpu")


@pytest.mark.usefixtures("gpus")
def test_two_jobs_get_two_gpus_and_the_third_waits(tmp_path: Path) -> None:
    got: list[torch.device] = []
    release = threading.Event()

    def third() -> None:
        with claim_device("cuda", tmp_path) as place:
            got.append(place)
            release.set()

    with claim_device("auto", tmp_path) as first:
        with claim_device("auto", tmp_path) as second:
            assert {first.index, second.index} == {0, 1}
            waiting = threading.Thread(target=third)
            waiting.start()
            assert not release.wait(0.1)
        assert release.wait(5)
    waiting.join()
    assert got == [second]


@pytest.mark.usefixtures("gpus")
def test_jobs_that_need_a_part_share_a_gpu_and_a_job_that_needs_all_takes_another(tmp_path: Path) -> None:
    with (
        claim_device("cuda", tmp_path, 50) as half,
        claim_device("cuda", tmp_path, 25) as quarter,
        claim_device("cuda", tmp_path, 100) as whole,
        claim_device("cuda", tmp_path, 20) as last,
    ):
        assert [place.index for place in (half, quarter, whole, last)] == [0, 0, 1, 0]


@pytest.mark.usefixtures("gpus")
def test_a_named_gpu_is_that_gpu_and_the_processor_stays_a_choice(tmp_path: Path) -> None:
    with claim_device("cuda:1", tmp_path) as place, claim_device("cpu", tmp_path) as processor:
        assert place == torch.device("cuda", 1)
        assert processor == torch.device("cpu")


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("wanted", ["cuda:2", "cuda:x", "gpu", ""])
def test_devices_that_do_not_exist_are_refused(wanted: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"PyTorch sees 2 CUDA devices|expected auto, cpu, cuda or cuda:N"):
        claim_device(wanted, tmp_path).__enter__()


@pytest.mark.usefixtures("no_gpu")
def test_cuda_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="set `device: auto` or `device: cpu`"):
        claim_device("cuda", tmp_path).__enter__()
