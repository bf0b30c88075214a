"""Parts that several models share: input checks, audio-guided visual attention, fusions, positions, the classifier,
and, for video parsing, the feature encoders and attentive MMIL pooling.

Letters as in design.md, section 5: B clips, T segments, F frames a segment, C categories, D feature width; H x W cells
of a map, K = H * W.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avpipe.models.base import FeatureBatch, ParsingOutput


def audio_of(audio: Tensor | None, dim: int, model: str) -> Tensor:
    """Return the audio features (B, T, `dim`). Raises ValueError if they are missing or have another shape."""
    if audio is None:
        raise ValueError(
            f"{model} needs audio features (B, T, {dim}); the batch has none: name an extractor for the role `audio`"
        )
    if audio.ndim != 3 or audio.shape[-1] != dim:
        raise ValueError(
            f"{model} needs audio features (B, T, {dim}), found {tuple(audio.shape)}; set `audio_dim` or another extractor"
        )
    return audio


def visual_of(visual: Tensor | None, dim: int, model: str, cells: int | None = None) -> Tensor:
    """Return the visual features, (B, T, `dim`) or maps (B, T, H, W, `dim`).

    Args:
        cells: H * W that the maps must have; None allows maps of any size, and vectors.

    Raises:
        ValueError: if they are missing or have another shape.
    """
    form = (
        f"(B, T, {dim}) or maps (B, T, H, W, {dim})"
        if cells is None
        else f"maps (B, T, H, W, {dim}) with H x W = {cells}"
    )
    if visual is None:
        raise ValueError(
            f"{model} needs visual features {form}; the batch has none: name an extractor for the role `visual`"
        )
    wrong_map = cells is not None and (visual.ndim != 5 or visual.shape[2] * visual.shape[3] != cells)
    if visual.ndim not in (3, 5) or visual.shape[-1] != dim or wrong_map:
        advice = "set `visual_dim` and `visual_cells`, or another extractor (pooling: map, average: true)"
        raise ValueError(f"{model} needs visual features {form}, found {tuple(visual.shape)}; {advice}")
    return visual


def frames_of(visual: Tensor | None, dim: int, model: str) -> Tensor:
    """Return the visual features of each frame, (B, T, F, `dim`).

    Vectors (B, T, `dim`) count as one frame, the cells of a map (B, T, H, W, `dim`) as H * W frames. Raises ValueError
    if they are missing or have another shape.
    """
    form = f"(B, T, {dim}), frames (B, T, F, {dim}) or maps (B, T, H, W, {dim})"
    if visual is None:
        raise ValueError(
            f"{model} needs visual features {form}; the batch has none: name an extractor for the role `visual`"
        )
    if visual.ndim < 3 or visual.shape[-1] != dim:
        raise ValueError(
            f"{model} needs visual features {form}, found {tuple(visual.shape)}; set `visual_dim`, or another extractor"
        )
    return visual.unsqueeze(2) if visual.ndim == 3 else visual.flatten(2, -2)  # (B, T, F, D_v)


def motion_of(motion: Tensor | None, dim: int, model: str) -> Tensor:
    """Return a 3D network's features (B, T, `dim`). Raises ValueError if they are missing or have another shape."""
    if motion is None:
        raise ValueError(
            f"{model} was built for motion features (B, T, {dim}) and the batch has none: name an extractor for the "
            "role `motion`, or set `motion_dim: 0`"
        )
    if motion.ndim != 3 or motion.shape[-1] != dim:
        raise ValueError(
            f"{model} needs motion features (B, T, {dim}), found {tuple(motion.shape)}; set `motion_dim` or another extractor"
        )
    return motion


def same_segments(audio: Tensor, visual: Tensor, model: str) -> None:
    """Raise ValueError unless both modalities have the same B and T."""
    if audio.shape[:2] != visual.shape[:2]:
        raise ValueError(
            f"{model}: audio has (B, T) = {tuple(audio.shape[:2])} but visual has {tuple(visual.shape[:2])}; "
            "both need the same clips and segments"
        )


def audio_and_visual(
    batch: FeatureBatch, audio_dim: int, visual_dim: int, model: str, cells: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return `audio_of` and `visual_of` of the batch. Raises as they do, and ValueError for other clips or segments."""
    audio = audio_of(batch.audio, audio_dim, model)
    visual = visual_of(batch.visual, visual_dim, model, cells)
    same_segments(audio, visual, model)
    return audio, visual


def segment_features(
    batch: FeatureBatch, audio_dim: int, visual_dim: int, model: str
) -> tuple[Tensor, Tensor]:
    """Return audio (B, T, D_a) and visual (B, T, D_v), averaged over frames or cells. Raises as `audio_and_visual`."""
    audio = audio_of(batch.audio, audio_dim, model)
    frames = frames_of(batch.visual, visual_dim, model)
    same_segments(audio, frames, model)
    return audio, frames.mean(dim=2)  # (B, T, F, D_v) -> (B, T, D_v)


def spatial_average(visual: Tensor) -> Tensor:
    """Global average pooling: (B, T, H, W, D) -> (B, T, D); vectors (B, T, D) are returned as they are."""
    return visual.mean(dim=(2, 3)) if visual.ndim == 5 else visual


class LSTM(nn.LSTM):
    """torch's LSTM, batch first, always in float32: on a GPU, torch.autocast would run it in float16."""

    def __init__(
        self, in_dim: int, dim: int, bidirectional: bool = True, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(in_dim, dim, layers, dropout=dropout, batch_first=True, bidirectional=bidirectional)

    def forward(self, features: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Any:  # type: ignore[override]
        """As `nn.LSTM`'s."""
        with torch.autocast(features.device.type, enabled=False):
            start = None if state is None else (state[0].float(), state[1].float())
            return super().forward(features.float(), start)


class AudioGuidedAttention(nn.Module):
    """A weighted sum of a map's cells, with weights from the audio (Tian et al., ECCV 2018, sec. 3.3).

    For one segment with K = H * W cells v and audio a, v' = ReLU(U_v v), a' = ReLU(U_a a),

        w = softmax over cells of W_f tanh(W_v v' + W_a a'),   output = sum over cells of w_k v_k

    W_v and W_a give K numbers (49 for 7 x 7); W_f turns the K numbers of a cell into its score. The released code
    (AVE-ECCV18, models.py) adds the k-th number of W_a a' to all K numbers of *cell* k: one scalar a cell. The equation
    (recalled; we did not have the paper) adds it to the k-th number of every cell. `audio_term` chooses.

    Args:
        audio_dim, visual_dim: D_a and D_v.
        cells: K; 49 with the released sizes. ValueError for 1, where attention has no choice.
        hidden_dim: width of v' and a'; 512 as released.
        audio_term: "per_cell" as released, "per_channel" as in the equation.
    """

    def __init__(
        self,
        audio_dim: int,
        visual_dim: int,
        cells: int,
        hidden_dim: int = 512,
        audio_term: Literal["per_cell", "per_channel"] = "per_cell",
    ) -> None:
        super().__init__()
        if cells < 2:
            raise ValueError(
                "audio-guided attention needs maps, and these visual features are vectors: set "
                "`attention: false` (AVIN: `visual_attention: false`), or use an extractor with `pooling: map`"
            )
        self.audio_term = audio_term
        self.embed_audio = nn.Linear(audio_dim, hidden_dim)
        self.embed_visual = nn.Linear(visual_dim, hidden_dim)
        self.map_visual = nn.Linear(hidden_dim, cells, bias=False)
        self.map_audio = nn.Linear(hidden_dim, cells, bias=False)
        self.score = nn.Linear(cells, 1, bias=False)
        xavier_(self)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, T, D_a), visual (B, T, H, W, D_v) -> attended features (B, T, D_v), and the weights (B, T, H, W).

        The weights sum to one over the cells.
        """
        batch, segments, height, width, dim = visual.shape
        cells = visual.reshape(batch, segments, height * width, dim)  # (B, T, H, W, D_v) -> (B, T, K, D_v)
        from_visual = self.map_visual(torch.relu(self.embed_visual(cells)))  # (B, T, K, K)
        from_audio = self.map_audio(torch.relu(self.embed_audio(audio)))  # (B, T, K)
        from_audio = from_audio.unsqueeze(-1 if self.audio_term == "per_cell" else -2)
        weights = self.score(torch.tanh(from_visual + from_audio)).squeeze(-1).softmax(dim=-1)  # (B, T, K)
        attended = (weights.unsqueeze(-2) @ cells).squeeze(-2)  # (B, T, 1, K) @ (B, T, K, D_v) -> (B, T, D_v)
        return attended, weights.view(batch, segments, height, width)  # (B, T, K) -> (B, T, H, W)


class ResidualFusion(nn.Module):
    """Fuse two vectors of width `dim`: the residual block of AVEL's DMRN (Tian et al., ECCV 2018, sec. 3.4).

    With m = (U_a(a) + U_v(v)) / 2 and U = Linear, tanh, Linear, each modality is updated from the *other* one,

        v' = tanh(a + m),   a' = tanh(v + m),   output = (a' + v') / 2

    The crossed residuals are the released code's (AVE-ECCV18, models_fusion.py). With one block, as released, crossing
    does not change the output.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.from_audio = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim))
        self.from_visual = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim))

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """(..., dim), (..., dim) -> (..., dim)."""
        merged = (self.from_audio(audio) + self.from_visual(visual)) / 2
        return (torch.tanh(audio + merged) + torch.tanh(visual + merged)) / 2


def visual_vectors(
    attention: AudioGuidedAttention | None, audio: Tensor | None, visual: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """One visual vector a segment: the attended sum of a map's cells or, without attention, their average.

    Args:
        attention: None for the average.
        audio: (B, T, D_a), guides the attention; ignored without it.
        visual: (B, T, H, W, D_v); (B, T, D_v) without attention.

    Returns:
        (B, T, D_v), and the weights {"visual": (B, T, H, W)}; {} without attention.
    """
    if attention is None:
        return spatial_average(visual), {}
    attended, weights = attention(audio, visual)
    return attended, {"visual": weights}


def draw_biases_(std: float, *factors: nn.Linear) -> None:
    """Draw the biases of a product's factors from a normal distribution with standard deviation `std`.

    Standardized features have mean zero, so their product has no part that depends on one factor alone. Published
    features, taken after a ReLU, have a positive mean; the biases take its place.
    """
    for factor in factors:
        nn.init.normal_(factor.bias, std=std)


def power_normalize(z: Tensor) -> Tensor:
    """sign(z) |z|^0.5 with a finite slope (1e4) at zero.

    Computed as z / sqrt(|z| + 1e-8): it differs by less than 1e-4 everywhere, and by less than float32's precision for
    |z| >= 0.1.
    """
    return z * torch.rsqrt(z.abs() + 1e-8)


class MFB(nn.Module):
    """Multi-modal factorized bilinear pooling (Yu et al., ICCV 2017; equations 2 and 3 of AVIN's slides).

    Output i is the bilinear form v^T W_i a with W_i = sum over j < q of U[:, iq + j] V[:, iq + j]^T, followed by power
    and L2 normalisation over the p outputs.

    Args:
        visual_dim, audio_dim: d_v and d_a.
        p: outputs.
        q: latent dimensionality, the rank of each W_i.
        dropout: after the element-wise product, before sum pooling, as in the authors' code.
        bias: std of the initial biases of U and V; 0 = none, as in the equations.
    """

    def __init__(
        self, visual_dim: int, audio_dim: int, p: int, q: int, dropout: float, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.q = q
        self.visual = nn.Linear(visual_dim, p * q, bias=bias > 0)  # U^T
        self.audio = nn.Linear(audio_dim, p * q, bias=bias > 0)  # V^T
        if bias:
            draw_biases_(bias, self.visual, self.audio)
        self.dropout = nn.Dropout(dropout)

    def bilinear(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Equation 2: (..., d_v), (..., d_a) -> (..., p), without normalisation."""
        product = self.dropout(self.visual(visual) * self.audio(audio))  # (..., p * q)
        return product.unflatten(-1, (-1, self.q)).sum(dim=-1)  # (..., p, q) -> (..., p)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Equations 2 and 3: (..., d_v), (..., d_a) -> (..., p) of length one (zero if either input is zero)."""
        return nn.functional.normalize(power_normalize(self.bilinear(visual, audio)), dim=-1, eps=1e-6)


class ParsingEncoder(nn.Module):
    """HAN's encoders: one linear map a feature to D, without activation, dropout or positions.

    Frames of a segment are mapped, then averaged. Visual and 3D features are fused by Linear(2 D, D) (AVVP-ECCV20,
    nets/net_audiovisual.py: fc_a, fc_v, fc_st, fc_fusion).

    Args:
        audio_dim, visual_dim: D_a and D_v.
        motion_dim: D_m; 0 = no 3D network's features and no fusion.
        dim: D.
        model: its title, for error messages.
    """

    def __init__(self, audio_dim: int, visual_dim: int, motion_dim: int, dim: int, model: str) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.motion_dim, self.model = motion_dim, model
        self.audio = nn.Linear(audio_dim, dim)
        self.visual = nn.Linear(visual_dim, dim)
        self.motion = nn.Linear(motion_dim, dim) if motion_dim else None
        self.fuse = nn.Linear(2 * dim, dim) if motion_dim else None

    def forward(self, batch: FeatureBatch) -> tuple[Tensor, Tensor]:
        """Encode both modalities. Raises ValueError if a feature is missing, has another shape, or other clips and
        segments.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v), frames (B, T, F, D_v) or maps (B, T, H, W, D_v), averaged;
                motion (B, T, D_m) unless `motion_dim` is 0.

        Returns:
            Audio and visual, (B, T, D) each.
        """
        # The linear map commutes with the average over frames.
        audio, frame = segment_features(batch, self.audio_dim, self.visual_dim, self.model)
        visual = self.visual(frame)  # (B, T, D)
        if self.motion is not None and self.fuse is not None:
            motion = motion_of(batch.motion, self.motion_dim, self.model)
            same_segments(audio, motion, self.model)
            visual = self.fuse(torch.cat([visual, self.motion(motion)], dim=-1))  # (B, T, 2 D) -> (B, T, D)
        return self.audio(audio), visual


def attentive_mmil_pooling(
    probabilities: Tensor, time_scores: Tensor, modality_scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Attentive multimodal multiple-instance pooling (Tian et al., ECCV 2020, sec. 4.3).

    With W_t = softmax over time of `time_scores` and W_av = softmax over the two modalities of `modality_scores`,

        P_m = sum over t of W_t p   (m = audio, visual),     P_clip = sum over t and m of W_t W_av p

    W_t sums to one in each modality and W_av in each segment, but W_t W_av need not: P_clip can reach 2.

    Args:
        probabilities: p (B, T, 2, C), 0 to 1; index 0 audio, 1 visual.
        time_scores: (B, T, 2, C), unnormalised.
        modality_scores: (B, T, 2, C), unnormalised.

    Returns:
        P_clip (B, C), and P_audio and P_visual as (B, 2, C).
    """
    weighted = time_scores.softmax(dim=1) * probabilities  # (B, T, 2, C)
    clip = (modality_scores.softmax(dim=2) * weighted).sum(dim=(1, 2))  # (B, C)
    return clip, weighted.sum(dim=1)


class ParsingHead(nn.Module):
    """HAN's output: three linear maps shared by both modalities (fc_prob, fc_frame_att, fc_av_att), then pooling.

    Args:
        dim: D.
        num_classes: C.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.probability = nn.Linear(dim, num_classes)
        self.time = nn.Linear(dim, num_classes)
        self.modality = nn.Linear(dim, num_classes)

    def forward(self, audio: Tensor, visual: Tensor) -> ParsingOutput:
        """Audio and visual, (B, T, D) each -> the three probabilities of a parsing model."""
        both = torch.stack([audio, visual], dim=2)  # (B, T, 2, D)
        probabilities = self.probability(both).float().sigmoid()  # (B, T, 2, C)
        clip, of_modality = attentive_mmil_pooling(probabilities, self.time(both), self.modality(both))
        return ParsingOutput(
            parsing_probabilities=probabilities, modality_probabilities=of_modality, clip_probabilities=clip
        )


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """(length, dim): sin and cos of t / 10000^(2 k / dim), alternating (Vaswani et al., 2017); dim is even."""
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))  # (dim / 2)
    angles = torch.arange(length).unsqueeze(1) * rates  # (length, dim / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (length, dim)


def classifier(in_dim: int, classes: int, hidden_dim: int = 64, bias: bool = True) -> nn.Sequential:
    """Linear, ReLU, Linear with Xavier weights: the released AVEL's classifier (64 hidden units); PSP's has no bias."""
    head = nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=bias), nn.ReLU(), nn.Linear(hidden_dim, classes, bias=bias)
    )
    xavier_(head)
    return head


def xavier_(module: nn.Module) -> None:
    """Xavier-uniform weights for every Linear in `module`; biases keep torch's default."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)


def intervals(segments: int) -> Tensor:
    """Every interval of a clip of T segments: (I, T) bool, I = T (T + 1) / 2, sorted by first segment, then by length."""
    runs = [(onset, end) for onset in range(segments) for end in range(onset + 1, segments + 1)]
    first, end = torch.tensor(runs).T.unsqueeze(-1)  # (I, 1) each
    segment = torch.arange(segments)
    return (segment >= first) & (segment < end)
