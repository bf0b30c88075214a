"""DCCA: Andrew, Arora, Bilmes and Livescu, Deep Canonical Correlation Analysis, ICML 2013.

Two networks are trained so that their outputs, for the segments with an audio-visual event, correlate as much as
possible in their canonical directions; what the modalities do not share is dropped. The paper of AVEL compares its
AVDLN with DCCA and does not say how it was built; here it has AVDLN's encoders.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.avdln import encoder
from avpipe.models.base import CrossModalityBatch, ModelCard, SimilarityOutput
from avpipe.models.layers import audio_and_visual, spatial_average
from avpipe.models.parallel import gather

CARD = ModelCard(
    title="DCCA",
    paper="G. Andrew, R. Arora, J. Bilmes and K. Livescu, Deep Canonical Correlation Analysis, ICML 2013; compared in Y. Tian et al., ECCV 2018",
    task="cross_modality",
    inputs="VGGish (128), VGG-19 block5_pool averaged over its cells (512)",
    parameters=98_560,
    code="none public for AVE",
    assumptions=(
        "Encoders as AVDLN's, the last layer without bias (a correlation ignores offsets); pairs are the event segments of the training clips.",
        "The correlation is that of a batch (Andrew et al.: of all data), with the covariances' diagonal raised by `ridge` times its mean.",
        "The last, linear step (canonical directions) uses running averages of the batches' means and covariances, momentum 0.1, as batch normalisation does.",
        "The similarity of two segments is the cosine of their canonical variates, each weighted by its correlation.",
    ),
)


def canonical_directions(
    audio: Tensor, visual: Tensor, cross: Tensor, ridge: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Linear canonical correlation analysis.

    With whitening S = L L^T by Cholesky, the canonical correlations are the singular values of L_a^-1 S_av L_v^-T.
    (Andrew et al. whiten by the symmetric root: a rotation, which changes no correlation.)

    Args:
        audio, visual: (D, D), covariances.
        cross: (D, D), covariance of audio (rows) and visual.
        ridge: share of the mean variance that is added to each variance.

    Returns:
        Directions (D, D) of audio and of visual, one a column, and their correlations (D,), largest first.
    """
    roots = [torch.linalg.cholesky(_raised(covariance, ridge)) for covariance in (audio, visual)]
    between = torch.linalg.solve_triangular(roots[0], cross, upper=False)
    between = torch.linalg.solve_triangular(roots[1], between.T, upper=False).T
    left, correlation, right = torch.linalg.svd(between)
    audio_directions, visual_directions = (
        torch.linalg.solve_triangular(root.T, rotation, upper=True)
        for root, rotation in zip(roots, (left, right.T), strict=True)
    )
    return audio_directions, visual_directions, correlation


def _raised(covariance: Tensor, ridge: float) -> Tensor:
    """The covariance (D, D) with its diagonal raised, so that it is not singular."""
    size = len(covariance)
    more = ridge * covariance.diagonal().mean() + 1e-8
    return covariance + more * torch.eye(size, dtype=covariance.dtype, device=covariance.device)


class DCCA(nn.Module):
    """Cross-modality localization by deep canonical correlation.

    Args:
        audio_dim, visual_dim: D_a and D_v.
        hidden_dim: of both encoders.
        embedding_dim: D, of their outputs; a batch should have several times as many event segments.
        ridge: see `canonical_directions`.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(
        self,
        *,
        audio_dim: int = 128,
        visual_dim: int = 512,
        hidden_dim: int = 128,
        embedding_dim: int = 64,
        ridge: float = 0.1,
    ) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim, self.ridge = audio_dim, visual_dim, ridge
        self.audio = encoder(audio_dim, hidden_dim, embedding_dim, bias=False)
        self.visual = encoder(visual_dim, hidden_dim, embedding_dim, bias=False)
        self.register_buffer("mean", torch.zeros(2 * embedding_dim))
        # Before the first batch both outputs count as the same variable.
        self.register_buffer("covariance", torch.eye(embedding_dim).repeat(2, 2))

    def forward(self, batch: CrossModalityBatch) -> SimilarityOutput:
        """Compare every audio segment with every visual segment. Raises ValueError if a modality is missing or has
        another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v); `event` in training.

        Returns:
            `similarity` (B, T, T), the cosine of the weighted canonical variates; `losses["correlation"]`, minus the
            mean canonical correlation over event segments, if the event is given.
        """
        audio, visual = audio_and_visual(batch, self.audio_dim, self.visual_dim, "DCCA")
        audio = self.audio(audio).float()  # (B, T, D)
        visual = self.visual(spatial_average(visual)).float()
        losses = {}
        with torch.autocast(audio.device.type, enabled=False):  # torch has no decompositions in bfloat16
            if batch.event is not None:
                chosen = gather(batch.event).bool()
                losses["correlation"] = self._correlation_loss(gather(audio)[chosen], gather(visual)[chosen])
            return SimilarityOutput(similarity=self._similarity(audio, visual), losses=losses)

    def _correlation_loss(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Minus the mean canonical correlation of pairs (P, D), (P, D); updates the running averages in training."""
        both = torch.cat([audio, visual], dim=1)  # (P, 2 D)
        if len(both) < 2:
            return both.sum() * 0
        mean, covariance = both.mean(dim=0), torch.cov(both.T)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1)
                self.covariance.lerp_(covariance, 0.1)
        return -canonical_directions(*_parts(covariance), self.ridge)[2].mean()

    def _similarity(self, audio: Tensor, visual: Tensor) -> Tensor:
        """(B, T, D), (B, T, D) -> (B, T, T), with the running averages."""
        audio_directions, visual_directions, weight = canonical_directions(
            *_parts(self.covariance), self.ridge
        )
        means = self.mean.chunk(2)  # (2 D,) -> two (D,)
        audio_variates = functional.normalize((audio - means[0]) @ audio_directions * weight, dim=-1)
        visual_variates = functional.normalize((visual - means[1]) @ visual_directions * weight, dim=-1)
        return audio_variates @ visual_variates.transpose(1, 2)


def _parts(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the joint covariance (2 D, 2 D) into those of audio, of visual and between them, (D, D) each."""
    size = len(covariance) // 2
    return covariance[:size, :size], covariance[size:, size:], covariance[:size, size:]
