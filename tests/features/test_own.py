"""Networks and weights of one's own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from avpipe.features import spec, visual
from avpipe.features.backbones import create_extractor
from avpipe.features.weights import WeightsError, needed_weights
from avpipe.files import sha256_of
from avpipe.plan.extractor import ExtractorConfig
from avpipe.plan.section import ConfigError

CPU = torch.device("cpu")
NETWORKS = """
from torch import nn

class Vectors(nn.Module):
    kind, width = ("3d", 5)

class Frames(nn.Module):
    kind = "3d"
    width = 6

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 6)

    def forward(self, clips):  # (N, 3, F, H, W) -> (N, 6)
        return self.layer(clips.mean(dim=(2, 3, 4)))

class Wrong(Frames):
    width = 7
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_networks_example.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_networks_example"


def config(backbone: str, **options: object) -> ExtractorConfig:
    return ExtractorConfig.model_validate({"backbone": backbone, "image_size": 32, **options})


def test_a_network_of_ones_own_computes_features_with_the_weights_of_its_file(own, tmp_path):
    file = tmp_path / "mine.pt"
    layer = nn.Linear(3, 6)
    torch.save({f"layer.{name}": value for name, value in layer.state_dict().items()}, file)
    extractor = create_extractor(config(f"{own}:Frames", fps=2, weights_file=str(file)), CPU, None)
    frames = torch.full((1, 2, 32, 32, 3), 200, dtype=torch.uint8)
    mean, deviation = (255 * torch.tensor(values) for values in visual.NORMALISATION["3d"])
    torch.testing.assert_close(extractor(frames), layer((200 - mean) / deviation)[None])
    assert extractor.identity.source == "pretrained"
    assert extractor.identity.files == {"mine.pt": sha256_of(file)}
    assert spec.feature_shape(extractor.config) == (10, 6)


def test_its_random_weights_follow_from_the_seed_alone(own):
    def hashed(seed: int) -> str:
        chosen = config(f"{own}:Frames", fps=2, weights="random", seed=seed)
        return create_extractor(chosen, CPU, None).identity.state_sha256

    first = hashed(0)
    torch.rand(1)
    assert hashed(0) == first != hashed(1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "Vectors",
            {},
            "needs the attributes `kind`, one of 2d, 3d, audio, and `width`, a number; found None",
        ),
        ("Frame", {}, "has no class or function Frame; did you mean 'Frames'"),
        ("Frames", {"fps": 2}, "weights_file: is missing; .* or set `weights: random`"),
        ("Frames", {"fps": 2, "weights_file": "no.pt"}, "weights_file: no.pt is no file"),
        ("Frames", {"fps": 2, "weights": "random", "pca": True}, "pca: only vggish"),
    ],
)
def test_what_planning_can_see_is_named_before_any_job(own, name, options, message):
    with pytest.raises(ConfigError, match=message):
        spec.check_extractors({"x": config(f"{own}:{name}", **options)})


def test_other_outputs_than_the_class_says_are_an_error_before_extraction(own):
    with pytest.raises(ConfigError, match=r"gives \(2, 6\) for inputs .*; expected \(2, 7\), as its `width`"):
        create_extractor(config(f"{own}:Wrong", fps=2, weights="random"), CPU, None)


def test_a_known_network_takes_weights_of_ones_own(tmp_path):
    file = tmp_path / "mine.pt"
    with torch.device("cpu"):
        network = visual._architecture("resnet18").to_empty(device="cpu")
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    torch.save({**state, "layer4.1.bn2.bias": torch.full((512,), 3.0)}, file)
    chosen = config("resnet18", weights_file=str(file))
    features = create_extractor(chosen, CPU, None)(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))
    torch.testing.assert_close(features, torch.full((1, 512), 3.0))
    assert needed_weights([chosen]) == []
    torch.save({}, file)
    with pytest.raises(WeightsError, match="does not fit torchvision's resnet18"):
        create_extractor(chosen, CPU, None)
