"""VGGish: 128 numbers per second of audio.

The network is torchvggish's, which is TensorFlow's (Hershey et al., "CNN Architectures for Large-Scale Audio
Classification", ICASSP 2017). Three variants are in use and are not interchangeable:

- after the last ReLU (`last_relu: true`), no PCA: the features of AVE and LLP, torchvggish's raw output;
- before the last ReLU (`last_relu: false`): TensorFlow's VGGish since 2020;
- with `pca: true`: PCA, clipping to [-2, 2] and quantization to 0 .. 255, as in the AudioSet release.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from avpipe.features import synthetic
from avpipe.features.backbones import (
    Extractor,
    WeightsIdentity,
    draw_weights,
    fill,
    published_file,
    state_sha256,
    weights_path,
)
from avpipe.features.weights import WeightsError, load_state
from avpipe.media.logmel import SAMPLE_RATE, log_mel

_CALIBRATION_SOUNDS = 16


class VGGishExtractor(Extractor):
    """(N, 16000) waveforms of a second at 16 kHz -> (N, 128)."""

    preprocessing = (
        "each second alone, 16 kHz mono in [-1, 1]; VGGish log-mel: periodic Hann 400, hop 160, FFT 512 magnitude, "
        "64 triangles linear in HTK mel 125-7500 Hz, log(mel + 0.01), the first 96 of 98 frames"
    )

    def _load(self, weights_folder: Path | None) -> tuple[nn.Module, WeightsIdentity, Tensor]:
        from torchvggish.torchvggish import VGG, make_layers

        with torch.device("meta"):
            network = VGG(make_layers(), postprocess=False)
        files: dict[str, str] = {}
        if self.config.weights == "pretrained":
            path, files = weights_path(self.config, weights_folder)
            fill(network, path, "torchvggish's VGGish")
            source = "pretrained"
        else:
            network.to_empty(device="cpu")
            draw_weights(network, self.config.seed, _calibrate)
            source = f"random, seed {self.config.seed}"
        identity = WeightsIdentity(source, state_sha256(network), files)
        if not self.config.last_relu:
            network.embeddings = network.embeddings[:-1]
        self.pca: tuple[Tensor, Tensor] | None = None
        if self.config.pca:
            path, pca_files = published_file("vggish_pca", weights_folder)
            state = load_state(path)
            try:
                eigenvectors, means = state["pca_eigen_vectors"], state["pca_means"]
            except KeyError as error:
                raise WeightsError(f"{path}: no {error}; expected pca_eigen_vectors and pca_means") from None
            self.pca = (eigenvectors.float().to(self.device), means.float().reshape(-1).to(self.device))
            files.update(pca_files)
        example = log_mel(synthetic.sounds(2).float(), SAMPLE_RATE)  # (2, 1, 96, 64)
        return network.eval().requires_grad_(False), identity, example

    def __call__(self, segments: Tensor) -> Tensor:
        examples = log_mel(segments, SAMPLE_RATE)[:, 0, None]  # (N, 16000) -> (N, 1, 96, 64)
        embeddings = self.network(examples)
        if self.pca is None:
            return embeddings
        eigenvectors, means = self.pca
        return quantize((embeddings - means) @ eigenvectors.T)


def quantize(whitened: Tensor) -> Tensor:
    """PCA output clipped to [-2, 2] and quantized to 0 .. 255 (kept as float32), as in the AudioSet release."""
    return ((whitened.clamp(-2.0, 2.0) + 2.0) * (255.0 / 4.0)).round()


def _calibrate(network: nn.Module) -> None:
    examples = log_mel(synthetic.sounds(_CALIBRATION_SOUNDS), SAMPLE_RATE)  # float64 (N, 1, 96, 64)
    network(examples)
