"""Standardized inputs: what the model sees, and that its state holds how."""

import torch

from avpipe.models.base import ModelOutput, ParsingBatch
from avpipe.models.standardization import standardize_inputs


class Seeing(torch.nn.Module):
    """Keeps what it is given."""

    def forward(self, batch: ParsingBatch) -> ModelOutput:
        self.seen = batch
        return ModelOutput()


def test_the_model_receives_each_dimension_standardized():
    model = Seeing()
    scales = {"audio": (torch.tensor([1.0, 10.0]), torch.tensor([2.0, 0.0]))}
    standardize_inputs(model, scales)
    batch = ParsingBatch(audio=torch.tensor([[[5.0, 10.0]]]), visual=torch.ones(1, 1, 3))
    batch.progress = 0.5
    model(batch)
    assert model.seen.audio.tolist() == [[[2.0, 0.0]]]  # (5 - 1) / 2; a dimension that never changes gives 0
    assert model.seen.visual is batch.visual
    assert model.seen.progress == 0.5
    assert batch.audio.tolist() == [[[5.0, 10.0]]], "the batch itself stays"


def test_the_scales_are_a_part_of_the_models_state():
    model = Seeing()
    standardize_inputs(model, {"visual": (torch.zeros(3), torch.ones(3))})
    assert set(model.state_dict()) == {"input_visual_mean", "input_visual_sd"}
    assert list(model.parameters()) == []
