"""VGGish against torchvggish's own front end, network and post-processing."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvggish import torchvggish
from torchvggish.vggish_input import waveform_to_examples

from avpipe.features import weights
from avpipe.features.backbones import create_extractor
from avpipe.features.vggish import VGGishExtractor, quantize
from avpipe.features.weights import PublishedWeights, WeightsError
from avpipe.plan.extractor import ExtractorConfig

CPU = torch.device("cpu")
WAVES = (0.3 * np.random.default_rng(2).normal(size=(3, 16_000))).astype(np.float32)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files as the published ones are: a VGGish, and a PCA as numpy arrays."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = torchvggish.VGG(torchvggish.make_layers(), postprocess=False)
    with torch.no_grad():
        for layer in (network.embeddings[0], network.embeddings[2], network.embeddings[4]):
            layer.weight.mul_(10)  # else all embeddings are the biases
    torch.save(network.state_dict(), folder / "vggish.pth")
    rng = np.random.default_rng(3)
    pca = {"pca_eigen_vectors": rng.normal(size=(128, 128)), "pca_means": rng.normal(size=(128, 1))}
    torch.save(pca, folder / "pca.pth", _use_new_zipfile_serialization=False)
    return folder


@pytest.fixture
def table(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, file in (("vggish", "vggish.pth"), ("vggish_pca", "pca.pth")):
        sha256 = hashlib.sha256((published / file).read_bytes()).hexdigest()
        entry = PublishedWeights(f"http://127.0.0.1:9/{file}", sha256, None, "none", "a test")
        monkeypatch.setitem(weights.PUBLISHED_WEIGHTS, name, entry)


def embeddings(folder: Path, **options: object) -> torch.Tensor:
    config = ExtractorConfig.model_validate({"backbone": "vggish", **options})
    extractor = create_extractor(config, CPU, folder)
    assert isinstance(extractor, VGGishExtractor)
    with torch.inference_mode():
        return extractor(torch.from_numpy(WAVES))


def expected_embeddings(folder: Path, postprocess: bool) -> torch.Tensor:
    """What torchvggish gives for each second alone."""
    network = torchvggish.VGG(torchvggish.make_layers(), postprocess=False).eval()
    network.load_state_dict(torch.load(folder / "vggish.pth"))
    network.postprocess = postprocess
    network.pproc = torchvggish.Postprocessor.__new__(torchvggish.Postprocessor)
    pca = torch.load(folder / "pca.pth", weights_only=False)
    network.pproc._pca_matrix = torch.as_tensor(pca["pca_eigen_vectors"]).float()
    network.pproc._pca_means = torch.as_tensor(pca["pca_means"]).float()
    examples = torch.cat([waveform_to_examples(wave, 16_000) for wave in WAVES])
    with torch.inference_mode():
        return network(examples)


@pytest.mark.usefixtures("table")
def test_embeddings_are_torchvggishs(published: Path) -> None:
    found = embeddings(published)
    assert found.min() == 0
    torch.testing.assert_close(found, expected_embeddings(published, False), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("table")
def test_without_the_last_relu_nothing_is_cut(published: Path) -> None:
    before, after = embeddings(published, last_relu=False), embeddings(published)
    assert before.min() < 0
    torch.testing.assert_close(before.relu(), after)


@pytest.mark.usefixtures("table")
def test_pca_is_torchvggishs(published: Path) -> None:
    found, expected = embeddings(published, pca=True), expected_embeddings(published, True)
    assert ((found - expected).abs() <= 1).all()  # a rounding may fall to either side
    assert (found == expected).float().mean() > 0.99
    assert found.min() >= 0
    assert found.max() <= 255


def test_quantization_covers_0_to_255() -> None:
    whitened = torch.tensor([-9.0, -2.0, 0.0, 2.0, 9.0])
    assert quantize(whitened).tolist() == [0, 0, 128, 255, 255]  # 127.5 rounds to the even 128


@pytest.mark.usefixtures("table")
def test_a_pca_file_without_its_arrays_is_refused(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vggish.pth").symlink_to(published / "vggish.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "pca.pth")
    sha256 = hashlib.sha256((tmp_path / "pca.pth").read_bytes()).hexdigest()
    entry = PublishedWeights("http://127.0.0.1:9/pca.pth", sha256, None, "none", "a test")
    monkeypatch.setitem(weights.PUBLISHED_WEIGHTS, "vggish_pca", entry)
    with pytest.raises(WeightsError, match="no 'pca_eigen_vectors'"):
        embeddings(tmp_path, pca=True)
