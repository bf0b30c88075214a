"""Random weights that still tell inputs apart, the same everywhere; published ones with their identity."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
import torchvision

from avpipe.features import weights
from avpipe.features.backbones import Extractor, create_extractor, draw_weights, state_sha256
from avpipe.features.weights import PublishedWeights, WeightsError
from avpipe.files import sha256_of
from avpipe.plan.extractor import ExtractorConfig
from avpipe.plan.section import ConfigError

CPU = torch.device("cpu")


def extractor(backbone: str, **options: object) -> Extractor:
    options = {"weights": "random", "image_size": 64, **options}
    return create_extractor(ExtractorConfig.model_validate({"backbone": backbone, **options}), CPU, None)


def features(network: Extractor, segments: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([network(part) for part in segments.split(16)])


def test_seeds_decide_the_weights() -> None:
    first, again, other = (extractor("resnet18", seed=seed).identity for seed in (1, 1, 2))
    assert first == again
    assert first.source == "random, seed 1"
    assert first.state_sha256 != other.state_sha256


def test_weights_do_not_depend_on_the_number_of_threads() -> None:
    alone = extractor("resnet18").identity
    torch.set_num_threads(2)
    assert extractor("resnet18").identity == alone


# chance is 1/8; a probe that confused the two textures of every colour, or two colours of every texture, gets 1/2
@pytest.mark.parametrize(
    ("backbone", "options", "count", "frames", "least"),
    [
        ("resnet18", {}, 12, 1, 0.7),
        pytest.param("resnet152", {}, 8, 1, 0.6, marks=pytest.mark.full_size),
        pytest.param("vgg16", {}, 12, 1, 0.6, marks=pytest.mark.full_size),
        pytest.param("r3d_18", {"fps": 4, "image_size": 48}, 8, 4, 0.5, marks=pytest.mark.full_size),
        pytest.param("r2plus1d_18", {"fps": 4, "image_size": 48}, 8, 4, 0.4, marks=pytest.mark.full_size),
    ],
)
def test_looks_stay_apart(
    backbone: str, options: dict[str, int], count: int, frames: int, least: float, probe: ModuleType
) -> None:
    pictures, classes = probe.looks(count, frames, 64)
    found = features(extractor(backbone, **options), pictures)
    assert found.std(0).mean() > 0.05
    assert probe.probe_accuracy(found, classes) >= least > 2 / probe.CLASSES


def test_sounds_stay_apart(probe: ModuleType) -> None:
    waves, classes = probe.noises(8)
    found = features(extractor("vggish"), waves)
    assert found.std(0).mean() > 0.1  # PyTorch's default initialisation: 2e-4
    assert 0.2 < (found == 0).float().mean() < 0.8  # the last ReLU cuts a part, as in AVE's features (65 %)
    assert probe.probe_accuracy(found, classes) >= 0.95


def test_calibration_standardises_layers_without_batch_norm() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    pictures = torch.rand(16, 3, 12, 12, dtype=torch.float64)
    draw_weights(network, 0, lambda n: n(pictures))
    deviation, mean = torch.std_mean(network(pictures.float()), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(4), atol=1e-3, rtol=0)


def test_state_sha256_sees_values_names_and_shapes() -> None:
    linear = torch.nn.Linear(2, 2)
    before = state_sha256(linear)
    assert state_sha256(torch.nn.Sequential(linear)) != before
    with torch.no_grad():
        linear.bias[0] += 1e-3
    assert state_sha256(linear) != before


def test_drift_of_bfloat16_is_measured() -> None:
    exact, short = (
        extractor("resnet18", precision=precision).network.drift for precision in ("float32", "bfloat16")
    )
    assert exact["cosine"] > 0.999999
    assert exact["largest_difference"] < 1e-4
    assert 0.999 < short["cosine"] < 1
    assert 1e-4 < short["largest_difference"] < 0.05


def test_published_weights_are_read_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "resnet18-x.pth")
    sha256 = sha256_of(tmp_path / "resnet18-x.pth")
    entry = PublishedWeights("http://127.0.0.1:9/resnet18-x.pth", sha256, None, "none", "a test")
    monkeypatch.setitem(weights.PUBLISHED_WEIGHTS, "resnet18", entry)
    config = ExtractorConfig(backbone="resnet18")
    found = create_extractor(config, CPU, tmp_path)
    assert found.identity.source == "pretrained"
    assert found.identity.files == {"resnet18-x.pth": sha256}
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "resnet18-x.pth")
    wrong = PublishedWeights(entry.url, sha256_of(tmp_path / "resnet18-x.pth"), None, "none", "a test")
    monkeypatch.setitem(weights.PUBLISHED_WEIGHTS, "resnet18", wrong)
    with pytest.raises(WeightsError, match=r"resnet18-x\.pth does not fit torchvision's resnet18"):
        create_extractor(config, CPU, tmp_path)


def test_published_weights_need_a_folder() -> None:
    with pytest.raises(WeightsError, match="published weights need a folder"):
        create_extractor(ExtractorConfig(backbone="vggish"), CPU, None)


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="r3d_18 has no spatial map"):
        extractor("r3d_18", pooling="map", fps=8)
