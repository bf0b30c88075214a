"""AVSDN: Lin, Li and Wang, Dual-modality seq2seq Network for Audio-Visual Event Localization, ICASSP 2019.

A sequence-to-sequence network. One LSTM encodes the audio, another the visual features. AVEL's dual multimodal residual
block fuses their last hidden states, and their last cell states, into the initial state of a third LSTM, the decoder.
It reads both modalities' local features, concatenated, and classifies every segment. No official code is public; with
`attention=True` the layers and the 2,162,510 parameters are those of the re-implementation in jasongief/CPSP
(cpsp_avel/model/avsdn.py).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import (
    LSTM,
    AudioGuidedAttention,
    ResidualFusion,
    audio_and_visual,
    classifier,
    visual_vectors,
)

State = tuple[Tensor, Tensor]
"""Hidden and cell state of an LSTM, each (directions, B, hidden)."""

CARD = ModelCard(
    title="AVSDN",
    paper="Y.-B. Lin, Y.-J. Li and Y.-C. F. Wang, Dual-Modality seq2seq Network for Audio-Visual Event Localization, ICASSP 2019",
    task="localization",
    inputs="VGGish (128), ResNet-152 of a frame a segment (2048; parameters are counted with 512, with 2048 they are 4,929,309)",
    parameters=1_783_581,
    code="none public; re-implementation in https://github.com/jasongief/CPSP",
    assumptions=(
        "Visual maps are averaged over their cells: the paper's row reads audio+visual, where AVEL's rows distinguish with and without attention (option `attention`).",
        "LSTMs of one layer in both directions, hidden 128, as in AVEL and CPSP; the paper says LSTM (option `bidirectional`). Each direction's last state is fused with the other modality's of the same direction.",
        "In both directions the decoder also reads a clip backwards, so that a segment's scores depend on the later segments. In one direction they reach it through the initial state only.",
        "Supervised, each segment's own label is its target (section 3: all the frame-wise labels are used); section 2 says that video-level labels train both settings.",
        "The fusion's MLPs are Linear, tanh, Linear, as in AVEL's DMRN, and are shared by hidden and cell states, as in CPSP (equation 2 is not legible in our copy of the paper).",
        "No ReLU on the states before fusion or on the decoder's outputs before classification; CPSP has both.",
        "The last fully connected layer is one Linear on the decoder's outputs.",
        "Label guided: the same network as `fusion`; an MLP (Linear, ReLU, Linear; 64 units) on each encoder's last hidden state is trained with the clip's categories by binary cross-entropy, weight 1.",
        "Visual or audio input only: the decoder's initial state is that encoder's; its inputs remain both modalities' local features.",
        "The weak label says which categories a clip has; the paper's mean of the segments' labels also tells how long they last (recipe `avsdn_weak` of ave.yaml).",
        "ave.yaml's maps are means of 16 frames a second; the paper samples a frame.",
    ),
)


class AVSDN(nn.Module):
    """Audio-visual event localization by a sequence-to-sequence network.

    Both settings are trained by binary cross-entropy on softmax probabilities; weakly supervised, on the segments'
    scores averaged over time (equation 3). These are the task's defaults for this model.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: D_a and D_v.
        visual_cells: H * W of the visual map; 1 for vectors, for which `attention` raises ValueError.
        initial_state: of the decoder, as in the rows of the paper's last table: both encoders' states fused ("Fusion
            (Ours)"), one encoder's state, or fused and label guided.
        attention: AVEL's audio-guided attention over a map's cells in place of their average; needs maps.
        bidirectional: LSTMs in both directions.
        hidden_dim: of each direction.
    """

    default_loss = "binary_cross_entropy"
    default_pooling = "mean"

    def __init__(
        self,
        *,
        num_classes: int = 28,
        audio_dim: int = 128,
        visual_dim: int = 512,
        visual_cells: int = 49,
        initial_state: Literal["fusion", "visual", "audio", "label_guided"] = "fusion",
        attention: bool = False,
        bidirectional: bool = True,
        hidden_dim: int = 128,
    ) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.cells = visual_cells if attention else None
        self.look = AudioGuidedAttention(audio_dim, visual_dim, visual_cells) if attention else None
        widths = {"audio": audio_dim, "visual": visual_dim}
        encoded = [initial_state] if initial_state in widths else list(widths)
        self.encoders = nn.ModuleDict({n: LSTM(widths[n], hidden_dim, bidirectional) for n in encoded})
        self.fusion = ResidualFusion(hidden_dim) if len(encoded) == 2 else None
        self.decoder = LSTM(audio_dim + visual_dim, hidden_dim, bidirectional)
        wide = hidden_dim * (2 if bidirectional else 1)
        self.classifier = nn.Linear(wide, num_classes + 1)
        guided = encoded if initial_state == "label_guided" else []
        self.guides = nn.ModuleDict({name: classifier(wide, num_classes + 1) for name in guided})

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v); `target` to train a label-guided model.

        Returns:
            `segment_logits` (B, T, C + 1); `losses` "guide_audio" and "guide_visual" if label-guided and there are
            labels; `attention["visual"]` (B, T, H, W) with attention.
        """
        audio, maps = audio_and_visual(batch, self.audio_dim, self.visual_dim, "AVSDN", self.cells)
        visual, weights = visual_vectors(self.look, audio, maps)  # (B, T, D_v)
        local = {"audio": audio, "visual": visual}
        states = {name: encoder(local[name])[1] for name, encoder in self.encoders.items()}
        inputs = torch.cat([audio, visual], dim=-1)  # (B, T, D_a + D_v)
        logits = self.classifier(self.decoder(inputs, self.initial_state(states))[0])  # (B, T, C + 1)
        return SegmentOutput(segment_logits=logits, losses=self._guide(states, batch), attention=weights)

    def initial_state(self, states: dict[str, State]) -> State:
        """The decoder's initial state: one encoder's last state, or both encoders' hidden states fused, and cell states likewise."""
        if self.fusion is None:
            (state,) = states.values()
            return state
        (h_audio, c_audio), (h_visual, c_visual) = states["audio"], states["visual"]
        return self.fusion(h_audio, h_visual), self.fusion(c_audio, c_visual)

    def _guide(self, states: dict[str, State], batch: LocalizationBatch) -> dict[str, Tensor]:
        """The loss of predicting the clip's categories from each encoder's last hidden state; {} without labels."""
        if batch.target is None:
            return {}
        target = clip_target(batch.target)
        losses = {}
        for name, guide in self.guides.items():
            hidden = states[name][0].transpose(0, 1).flatten(1)  # (directions, B, H) -> (B, directions * H)
            probabilities = guide(hidden).float().softmax(dim=-1)
            with torch.autocast(hidden.device.type, enabled=False):  # a GPU's autocast refuses this loss
                losses[f"guide_{name}"] = functional.binary_cross_entropy(probabilities, target)
        return losses


def clip_target(target: Tensor) -> Tensor:
    """The clip's categories (B, C + 1), 0 or 1, from the segments' labels (B, T, C + 1); background if there is none.

    Labels that are the clip's already, (B, C + 1), are returned as they are (shares with `weak_labels: durations`).
    """
    if target.ndim == 2:
        return target
    present = target[..., :-1].amax(dim=1)  # (B, C)
    return torch.cat([present, 1 - present.amax(dim=-1, keepdim=True)], dim=-1)  # (B, C + 1)
