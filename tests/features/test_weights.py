import hashlib
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from avpipe.features.spec import BACKBONES
from avpipe.features.weights import (
    PUBLISHED_WEIGHTS,
    PublishedWeights,
    WeightsError,
    fetch,
    load_state,
    needed_weights,
)
from avpipe.plan.extractor import ExtractorConfig
from avpipe.plan.registry import UnknownNameError
from avpipe.web import PublishedFileError
from tests.download.conftest import Server, serve

CONTENT = bytes(range(256)) * 1_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    """Serves good.pth, changed.pth (other bytes) and short.pth (breaks off)."""
    with serve() as running:
        running.file("/good.pth", CONTENT)
        running.file("/changed.pth", CONTENT[::-1])
        running.file("/short.pth", CONTENT, cut=100_000)
        yield running


def table(name: str, url: str = "http://127.0.0.1:9", sha256: str = SHA256) -> dict[str, PublishedWeights]:
    """Published weights of this name, by default at an address where nobody listens."""
    return {name: PublishedWeights(f"{url}/{name}.pth", sha256, len(CONTENT), "none", "a test")}


def test_downloads_once_and_checks(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:  # jobs that ask at once share the download
        jobs = [
            pool.submit(fetch, "good", tmp_path / "new", published=table("good", server.url))
            for _ in range(4)
        ]
        assert {job.result().read_bytes() for job in jobs} == {CONTENT}
    assert server.count("/good.pth") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "run again, or put the file into .* by hand"),
        ("changed", f"expected {SHA256}"),
        ("gone", "404.*put the file into .* by hand"),
    ],
)
def test_bad_downloads_are_refused(name: str, message: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(PublishedFileError, match=message):
        fetch(name, tmp_path, published=table(name, server.url))
    assert not list(tmp_path.glob("[!.]*"))


def test_a_download_that_broke_off_is_continued(server: Server, tmp_path: Path) -> None:
    with pytest.raises(PublishedFileError):
        fetch("short", tmp_path, published=table("short", server.url))
    server.file("/short.pth", CONTENT)
    assert fetch("short", tmp_path, published=table("short", server.url)).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-", "bytes=200000-"]


def test_without_network_the_message_names_address_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PublishedFileError, match=f"http://127.0.0.1:9/x.pth.*{tmp_path}"):
        fetch("x", tmp_path, published=table("x"))


def test_a_file_put_there_by_hand_is_used_without_network(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(CONTENT)
    assert fetch("x", tmp_path, published=table("x", sha256=SHA256[:8])) == tmp_path / "x.pth"


def test_a_wrong_file_put_there_by_hand_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(PublishedFileError, match=r"x.pth is not the published file.*move it away"):
        fetch("x", tmp_path, published=table("x"))
    assert (tmp_path / "x.pth").exists()


def test_a_study_needs_the_weights_of_its_extractors_alone() -> None:
    def needed(*settings: dict[str, object]) -> list[str]:
        return needed_weights([ExtractorConfig.model_validate(setting) for setting in settings])

    assert needed({"backbone": "vgg19", "fps": 16}, {"backbone": "vgg19"}, {"backbone": "vggish"}) == [
        "vggish",
        "vgg19",
    ]
    assert needed({"backbone": "vggish", "pca": True}) == ["vggish", "vggish_pca"]
    assert needed({"backbone": "resnet18", "weights": "random"}) == []


def test_unknown_names_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet50'"):
        fetch("resnet5", tmp_path)


@pytest.mark.parametrize("name", PUBLISHED_WEIGHTS)
def test_hashes_agree_with_the_digits_in_pytorchs_file_names(name: str) -> None:
    weights = PUBLISHED_WEIGHTS[name]
    digits = weights.filename.removesuffix(".pth").rpartition("-")[2]
    assert len(digits) == 8
    assert weights.sha256.startswith(digits)
    assert len(weights.sha256) in (8, 64)


def test_every_backbone_has_published_weights() -> None:
    assert set(BACKBONES) <= set(PUBLISHED_WEIGHTS)


@pytest.mark.parametrize("name", [n for n in PUBLISHED_WEIGHTS if n in BACKBONES and n != "vggish"])
def test_addresses_are_torchvisions_own(name: str) -> None:
    import torchvision

    version = "KINETICS400_V1" if BACKBONES[name].kind == "3d" else "IMAGENET1K_V1"
    assert torchvision.models.get_model_weights(name)[version].url == PUBLISHED_WEIGHTS[name].url


def test_addresses_of_vggish_are_torchvggishs_own() -> None:
    from torchvggish import torchvggish

    assert PUBLISHED_WEIGHTS["vggish"].url == torchvggish.VGGISH_WEIGHTS
    assert PUBLISHED_WEIGHTS["vggish_pca"].url == torchvggish.PCA_PARAMS


@pytest.mark.parametrize("zipped", [True, False])
def test_loads_tensors_and_numpy_arrays(zipped: bool, tmp_path: Path) -> None:
    # VGGish's PCA was saved as numpy arrays, by pickle protocol 2 and PyTorch's format before zip files
    state = {"pca_means": np.arange(3.0), "w": torch.arange(4), "single": np.ones((2, 2), np.float32)}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    found = load_state(tmp_path / "x.pth")
    assert found["pca_means"].tolist() == [0, 1, 2]
    assert found["w"].tolist() == [0, 1, 2, 3]
    assert found["single"].dtype == torch.float32


def test_loads_arrays_that_an_older_numpy_wrote(tmp_path: Path) -> None:
    torch.save({"m": np.arange(3.0)}, tmp_path / "new.pth", _use_new_zipfile_serialization=False)
    older = (tmp_path / "new.pth").read_bytes().replace(b"numpy._core", b"numpy.core")
    (tmp_path / "old.pth").write_bytes(older)
    assert load_state(tmp_path / "old.pth")["m"].tolist() == [0, 1, 2]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code in a file of weights was run",)


def test_code_in_a_file_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth holds no plain tensors"):
        load_state(tmp_path / "evil.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(WeightsError):
        load_state(tmp_path / "pickle.pth")
    assert capsys.readouterr().out == ""
