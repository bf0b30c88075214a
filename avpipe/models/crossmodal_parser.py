"""The parser of Lamba et al., Cross-Modal learning for Audio-Visual Video Parsing, Interspeech 2021, section 3.1.

HAN's inputs and output; between them each modality attends to itself (with its own weights) and then to the other.
Three parts are optional: attention with the clip's context (GCAA), a skip connection past the cross-modal layer, and an
adversarial modality discriminator. What the paper leaves open follows the released code
(jayaprakash-a/Cross-Modal-learning-for-Audio-Visual-Video-Parsing: nets/); options name where the two differ.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.base import ModelCard, ParsingBatch, ParsingOutput
from avpipe.models.layers import ParsingEncoder, ParsingHead

CARD = ModelCard(
    title="Cross-modal parser",
    paper="J. Lamba et al., Cross-Modal learning for Audio-Visual Video Parsing, Interspeech 2021",
    task="parsing",
    inputs="VGGish (128), ResNet-152 of 8 frames a segment (2048), R(2+1)D-18 (512)",
    parameters=8_589_056,
    code="https://github.com/jayaprakash-a/Cross-Modal-learning-for-Audio-Visual-Video-Parsing",
    assumptions=(
        "Audio features are VGGish's 128 numbers, as in the released code; the paper's 512 is their width after the first layer.",
        "With GCAA (Base + GCAA, Adv + Skip + GCAA) both self-attention and cross-modal attention are context-aware; Base has ordinary attention in the same places.",
        "`context: first_segment` is an error of the released code: every segment gets what the first segment attends to. Whether the printed numbers were made with it is not known.",
        "Every variant is trained with lambda_g = 0.6, those with Adv with lambda_ad = 0.4; the released scripts have 0.3 for both, and the adversarial term in every variant (recipe: `loss_weights`).",
        "The gradient reversal grows over the training steps as in Ganin et al., JMLR 2016, which the paper cites and the released code has. That code counts epochs from 1, so it is a whole epoch ahead (`reversal_start: 0.025` of 40 epochs).",
        "The reversal acts on the network only: equation 3's sign is the network's; the discriminator itself learns to tell the modalities apart.",
        "The released code has 8,591,104 parameters; 2,048 of them, two norms of the encoder, are never used and left out.",
    ),
)

Context = Literal["none", "global", "first_segment"]


class GlobalContextAttention(nn.Module):
    """Scaled dot-product attention with queries and keys interpolated towards their sequence's mean (GCAA).

    With c the mean over time of a sequence x, and both mapped, q = W_q x and q_c = W_qc c,

        lambda_t = sigmoid(u . q_t + u_c . q_c),     q'_t = (1 - lambda_t) q_t + lambda_t q_c

    and keys likewise with weights of their own; then softmax(q' k'^T / sqrt(D)) W_v x, and a last linear map. The paper
    takes it from Xuan et al. (AAAI 2020) in words; the equations are the released code's.

    Args:
        dim: D.
        dropout: of the attention's weights.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.query, self.query_context = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key, self.key_context = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.query_lean, self.query_context_lean = nn.Linear(dim, 1), nn.Linear(dim, 1)
        self.key_lean, self.key_context_lean = nn.Linear(dim, 1), nn.Linear(dim, 1)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Query (B, T, D), key (B, S, D), value (B, S, D) -> (B, T, D), and the weights (B, T, S), which sum to one over S."""
        own, context = self.query(query), self.query_context(query.mean(dim=1, keepdim=True))
        q = torch.lerp(own, context, (self.query_lean(own) + self.query_context_lean(context)).sigmoid())
        own, context = self.key(key), self.key_context(key.mean(dim=1, keepdim=True))
        k = torch.lerp(own, context, (self.key_lean(own) + self.key_context_lean(context)).sigmoid())
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)  # (B, T, S)
        return self.out(self.dropout(weights) @ self.value(value)), weights


class AttentionLayer(nn.Module):
    """Attention, then a feed-forward network, each followed by dropout, a residual and a norm.

    Args:
        dim: D.
        dropout: of the attention's weights and of both branches.
        context: "none" for ordinary attention with one head.
    """

    def __init__(self, dim: int, dropout: float, context: Context) -> None:
        super().__init__()
        self.first_segment = context == "first_segment"
        self.attention: nn.Module = (
            nn.MultiheadAttention(dim, 1, dropout, batch_first=True)
            if context == "none"
            else GlobalContextAttention(dim, dropout)
        )
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim)
        )
        self.attention_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention_dropout, self.dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D), (B, S, D) -> (B, T, D), and the weights (B, T, S)."""
        attended, weights = self.attention(query, memory, memory)
        if self.first_segment:
            attended = attended[:, :1]  # (B, 1, D), added to every segment
        hidden = self.attention_norm(query + self.attention_dropout(attended))
        return self.norm(hidden + self.dropout(self.feed_forward(hidden))), weights


class _Reversal(torch.autograd.Function):
    """The identity; its gradient is multiplied by -strength (Ganin et al., JMLR 2016)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def reverse_gradient(features: Tensor, strength: float) -> Tensor:
    """The features, of any shape, unchanged; their gradient is multiplied by -`strength`.

    So the features learn to work against what follows. `strength` 0 stops the gradient, 1 reverses it in full.
    """
    return _Reversal.apply(features, strength)


def reversal_strength(progress: float) -> float:
    """2 / (1 + exp(-10 p)) - 1: from 0 at the start of the training (p = 0) to almost 1 at its end (p = 1)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


class ModalityDiscriminator(nn.Sequential):
    """Tells audio from visual features: (N, D) -> logits (N, 1), positive for visual.

    Args:
        dim: D. The released widths for D = 512: 512, 128, 10, 1, with batch norm and ReLU between.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.Linear(dim, 128), nn.BatchNorm1d(128), nn.ReLU(),
            nn.Linear(128, 10), nn.BatchNorm1d(10), nn.ReLU(),
            nn.Linear(10, 1),
        )  # fmt: skip


class CrossModalParser(nn.Module):
    """Self-attention in each modality, then cross-modal attention; the options give the paper's rows.

    Base has none of the three parts, Base + GCAA only `context`, Base + Adv + Skip the other two.

    Args:
        num_classes: event categories C.
        audio_dim, visual_dim: D_a and D_v.
        motion_dim: D_m; 0 = no 3D network's features.
        context: of all three attention layers: "global" (GCAA), "none" (ordinary attention), or "first_segment", the
            released code's behaviour: every segment gets what the first one attends to.
        skip: add the self-attended features to the cross-modal ones.
        adversarial: the modality discriminator and its loss, in training.
        reversal_start: added to the progress on which the gradient's reversal depends; the released code's is 1 / epochs.
        hidden_dim: D.
        dropout: in the attention layers.
    """

    default_loss_weights: ClassVar[dict[str, float]] = {
        "clip": 1.0,
        "audio": 0.6,
        "visual": 0.6,
        "adversarial": 0.4,
    }
    default_label_smoothing = (0.0, 0.1)

    def __init__(
        self,
        *,
        num_classes: int = 25,
        audio_dim: int = 128,
        visual_dim: int = 2048,
        motion_dim: int = 512,
        context: Context = "global",
        skip: bool = True,
        adversarial: bool = True,
        reversal_start: float = 0.0,
        hidden_dim: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = ParsingEncoder(audio_dim, visual_dim, motion_dim, hidden_dim, "the cross-modal parser")
        self.audio_layer = AttentionLayer(hidden_dim, dropout, context)
        self.visual_layer = AttentionLayer(hidden_dim, dropout, context)
        self.cross_layer = AttentionLayer(hidden_dim, dropout, context)  # both directions
        self.joint = nn.Linear(hidden_dim, hidden_dim)
        self.audio_norm = nn.LayerNorm(hidden_dim) if skip else None
        self.visual_norm = nn.LayerNorm(hidden_dim) if skip else None
        self.discriminator = ModalityDiscriminator(hidden_dim) if adversarial else None
        self.reversal_start = reversal_start
        self.head = ParsingHead(hidden_dim, num_classes)

    def forward(self, batch: ParsingBatch) -> ParsingOutput:
        """Parse each clip. Raises ValueError if a feature is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v), frames (B, T, F, D_v) or maps (B, T, H, W, D_v), averaged;
                motion (B, T, D_m) unless `motion_dim` is 0; `progress` in training, else no gradient is reversed.

        Returns:
            `parsing_probabilities` (B, T, 2, C), `modality_probabilities` (B, 2, C), `clip_probabilities` (B, C);
            `losses["adversarial"]` in training; `attention`: "audio_from_audio", "audio_from_visual" and so on, each
            (B, T, T), queries as rows.
        """
        audio, visual = self.encoder(batch)  # (B, T, D)
        audio, audio_weights = self.audio_layer(audio, audio)
        visual, visual_weights = self.visual_layer(visual, visual)
        # Both directions in one batch: (2 B, T, D).
        joint, cross_weights = self.cross_layer(torch.cat([audio, visual]), torch.cat([visual, audio]))
        audio_joint, visual_joint = self.joint(joint).chunk(2)  # (2 B, T, D) -> two (B, T, D)
        audio_from_visual, visual_from_audio = cross_weights.chunk(2)  # (2 B, T, T) -> two (B, T, T)
        if self.audio_norm is not None and self.visual_norm is not None:
            audio_joint = self.audio_norm(audio_joint + audio)
            visual_joint = self.visual_norm(visual_joint + visual)
        output: ParsingOutput = self.head(audio_joint, visual_joint)
        if self.discriminator is not None and self.training:
            output.losses["adversarial"] = self._adversarial_loss(audio_joint, visual_joint, batch.progress)
        output.attention = {"audio_from_audio": audio_weights, "visual_from_visual": visual_weights}
        output.attention |= {"audio_from_visual": audio_from_visual, "visual_from_audio": visual_from_audio}
        return output

    def _adversarial_loss(self, audio: Tensor, visual: Tensor, progress: float | None) -> Tensor:
        """Equation 2 on the features (B, T, D), whose gradient is reversed; label 0 for audio, 1 for visual."""
        assert self.discriminator is not None
        features = torch.cat([audio, visual]).relu().flatten(0, 1)  # (2 B, T, D) -> (2 B T, D)
        features = reverse_gradient(features, reversal_strength((progress or 0.0) + self.reversal_start))
        logits = self.discriminator(features).squeeze(-1)  # (2 B T,)
        truth = torch.arange(2, device=logits.device, dtype=logits.dtype).repeat_interleave(len(logits) // 2)
        return functional.binary_cross_entropy_with_logits(logits, truth)
