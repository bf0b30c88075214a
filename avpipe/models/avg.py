"""AVG pretraining: Lamba et al., Cross-Modal learning for Audio-Visual Video Parsing, Interspeech 2021, section 3.2.

A UNITER-like transformer reads the segments of both modalities as one sequence and learns, without labels, which of
them belong together (`avpipe.models.grounding`). `avg_parser` is fine-tuned from it. Sizes are those of the released
code (jayaprakash-a/Cross-Modal-learning-for-Audio-Visual-Video-Parsing: model/model.py, main_avvp_multi.py).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from avpipe.models.base import FeatureBatch, GroundingOutput, ModelCard
from avpipe.models.grounding import (
    Connect,
    Objective,
    all_similarities,
    first_of_group,
    grounding_loss,
    same_group,
)
from avpipe.models.layers import motion_of, same_segments, segment_features, sinusoidal_positions

CARD = ModelCard(
    title="AVG pretraining",
    paper="J. Lamba et al., Cross-Modal learning for Audio-Visual Video Parsing, Interspeech 2021",
    task="pretraining",
    inputs="VGGish (128), ResNet-152 of 8 frames a second (8 x 2048); no 3D network's features, as released",
    parameters=128_217_088,
    code="https://github.com/jayaprakash-a/Cross-Modal-learning-for-Audio-Visual-Video-Parsing",
    assumptions=(
        "The paper gives neither thresholds nor margins: v_t = 0.96 and a_t = 0.99 on cosines and p = n = 0.7 are from the released code.",
        "With p = n a model whose cosines are all 0.7 has loss 0 whatever the groups; margins that differ exclude this solution.",
        "Algorithm 1 connects segments that are similar in one modality. The released code connects those that are similar in both and whose first segment is not silent; `connect: both` leaves out the test for silence, which needs the features of a file of theirs.",
        "Segment i is drawn for every clip; the released code draws one for the whole batch.",
        "Multi-modal is the sum of both objectives (equation 6); the released script alternates between them by epoch.",
        "Terms are means over clips and segments, as released; the equations have sums.",
        "Width 1024, 12 layers of 8 heads and 3072 hidden units, as released; the paper gives none of these.",
        "torch's post-norm transformer layer: it has one more dropout, inside the feed-forward part, and 1e-5 in its norms where BERT has 1e-12.",
        "Sinusoidal positions. The released code makes some, but its initialization then overwrites them, though frozen, by random numbers, one draw a modality (option `positions: random`).",
        "Audio and 3D features share a type embedding, as released.",
        "Left out because they change nothing: a learned vector added to every feature, unused layers, the pooler.",
        "A 3D network's features, if the experiment has them, are further tokens to attend to; none is grounded.",
    ),
)


Positions = Literal["sinusoidal", "random"]
INITIAL_STD = 0.02
"""Standard deviation of UNITER's initial weights."""
SEGMENTS = 10
"""Segments of a clip for which the released code has position embeddings."""


class TokenEmbedding(nn.Module):
    """UNITER's embedding of one modality: LN(LN(W x) + position + type), then dropout.

    Args:
        in_dim: width of the features.
        dim: D.
        dropout: of the result.
        positions: see `AVG`.
    """

    positions: Tensor | None

    def __init__(self, in_dim: int, dim: int, dropout: float, positions: Positions) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, dim)
        self.feature_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        drawn = INITIAL_STD * torch.randn(SEGMENTS, dim) if positions == "random" else None
        self.register_buffer("positions", drawn)

    def forward(self, features: Tensor, kind: Tensor) -> Tensor:
        """Features (B, T, in_dim) and their type's embedding (D,) -> (B, T, D). Raises ValueError for more segments than
        random positions."""
        hidden, segments = self.feature_norm(self.linear(features)), features.shape[1]
        if self.positions is None:
            positions = sinusoidal_positions(segments, hidden.shape[-1]).to(hidden)
        elif segments <= SEGMENTS:
            positions = self.positions[:segments]
        else:
            raise ValueError(f"`positions: random` is for {SEGMENTS} segments a clip, found {segments}")
        embedded: Tensor = self.dropout(self.norm(hidden + positions + kind))
        return embedded


class AudioVisualTransformer(nn.Module):
    """One transformer over the segments of all modalities; every token attends to all tokens.

    Weights are initialized as UNITER's: normal with a standard deviation of 0.02, biases zero.

    Args:
        audio_dim, visual_dim: D_a and D_v.
        motion_dim: D_m; 0 = no 3D network's features.
        dim: D, even, a multiple of `heads`, else ValueError.
        layers: of the transformer.
        heads: of each layer.
        feed_forward_dim: hidden units of each layer.
        dropout: everywhere.
        positions: see `AVG`.
        model: its title, for error messages.
    """

    def __init__(
        self,
        audio_dim: int,
        visual_dim: int,
        motion_dim: int,
        *,
        dim: int,
        layers: int,
        heads: int,
        feed_forward_dim: int,
        dropout: float,
        positions: Positions,
        model: str,
    ) -> None:
        super().__init__()
        if dim % 2 or dim % heads:
            raise ValueError(f"{model}: hidden_dim {dim} must be even and a multiple of heads {heads}")
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.motion_dim, self.model = motion_dim, model
        self.audio = TokenEmbedding(audio_dim, dim, dropout, positions)
        self.visual = TokenEmbedding(visual_dim, dim, dropout, positions)
        self.motion = TokenEmbedding(motion_dim, dim, dropout, positions) if motion_dim else None
        self.kind = nn.Embedding(2, dim)  # visual tokens; audio and motion tokens
        layer = nn.TransformerEncoderLayer(
            dim, heads, feed_forward_dim, dropout, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=INITIAL_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, batch: FeatureBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encode each clip's segments. Raises ValueError if a feature is missing, has another shape, or other clips and
        segments.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v), frames (B, T, F, D_v) or maps (B, T, H, W, D_v), averaged;
                motion (B, T, D_m) unless `motion_dim` is 0.

        Returns:
            Audio, visual and motion (None if `motion_dim` is 0) in the joint space, (B, T, D) each.
        """
        audio, visual = segment_features(batch, self.audio_dim, self.visual_dim, self.model)
        tokens = [self.visual(visual, self.kind.weight[0]), self.audio(audio, self.kind.weight[1])]
        if self.motion is not None:
            motion = motion_of(batch.motion, self.motion_dim, self.model)
            same_segments(audio, motion, self.model)
            tokens.append(self.motion(motion, self.kind.weight[1]))
        encoded = self.encoder(torch.cat(tokens, dim=1)).chunk(len(tokens), dim=1)  # (B, 2 T or 3 T, D)
        return encoded[1], encoded[0], encoded[2] if len(encoded) > 2 else None


class AVG(nn.Module):
    """Audio-visual grounding, pretrained without labels.

    Args:
        audio_dim, visual_dim: D_a and D_v.
        motion_dim: D_m; 0 = no 3D network's features.
        objective: "uni" within each modality (equation 4), "cross" across the two (5), "multi" both (6).
        connect: which segments Algorithm 1 connects: those similar in "either" modality, or in "both".
        audio_threshold: a_t, smallest cosine of similar audio segments.
        visual_threshold: v_t, smallest cosine of similar visual segments.
        positive_margin: p.
        negative_margin: n.
        hidden_dim: D.
        layers: of the transformer.
        heads: of each layer.
        feed_forward_dim: hidden units of each layer.
        dropout: everywhere.
        positions: of the segments: "sinusoidal", or "random", one fixed draw a modality with standard deviation 0.02, as in
            the released code; fine-tuning takes over the draws of pretraining.
    """

    def __init__(
        self,
        *,
        audio_dim: int = 128,
        visual_dim: int = 2048,
        motion_dim: int = 0,
        objective: Literal["uni", "cross", "multi"] = "multi",
        connect: Literal["either", "both"] = "either",
        audio_threshold: float = 0.99,
        visual_threshold: float = 0.96,
        positive_margin: float = 0.7,
        negative_margin: float = 0.7,
        hidden_dim: int = 1024,
        layers: int = 12,
        heads: int = 8,
        feed_forward_dim: int = 3072,
        dropout: float = 0.1,
        positions: Positions = "sinusoidal",
    ) -> None:
        super().__init__()
        self.transformer = AudioVisualTransformer(
            audio_dim,
            visual_dim,
            motion_dim,
            dim=hidden_dim,
            layers=layers,
            heads=heads,
            feed_forward_dim=feed_forward_dim,
            dropout=dropout,
            positions=positions,
            model="AVG",
        )
        self.objective: Objective = objective
        self.connect: Connect = connect
        self.audio_threshold, self.visual_threshold = audio_threshold, visual_threshold
        self.positive_margin, self.negative_margin = positive_margin, negative_margin

    def forward(self, batch: FeatureBatch) -> GroundingOutput:
        """Compare the segments of each clip. Raises ValueError if a feature is missing or has another shape.

        Args:
            batch: see `AudioVisualTransformer.forward`.

        Returns:
            `grounding` (B, 2, 2, T, T) and `groups` (B, T); in training `losses["grounding"]`, of a random segment a clip.
        """
        audio, visual, _ = self.transformer(batch)
        same = self.truth(batch)
        output = GroundingOutput(grounding=all_similarities(audio, visual), groups=first_of_group(same))
        if self.training and output.grounding is not None:
            chosen = torch.randint(audio.shape[1], (len(audio),), device=audio.device)
            output.losses["grounding"] = grounding_loss(
                output.grounding,
                same,
                chosen,
                self.objective,
                positive_margin=self.positive_margin,
                negative_margin=self.negative_margin,
            )
        return output

    @torch.no_grad()
    def truth(self, batch: FeatureBatch) -> Tensor:
        """Algorithm 1 on the input features (standardized if the recipe says so): (B, T, T) bool."""
        features = segment_features(batch, self.transformer.audio_dim, self.transformer.visual_dim, "AVG")
        return same_group(
            *features,
            audio_threshold=self.audio_threshold,
            visual_threshold=self.visual_threshold,
            connect=self.connect,
        )
