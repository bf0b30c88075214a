"""MA's base model: HAN with a contrastive loss, on numbers worked by hand."""

import math
from functools import partial

import pytest
import torch

from avpipe.models.base import ParsingBatch
from avpipe.models.han import HAN
from avpipe.models.ma import MA, segment_contrast

from .builders import random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "motion_dim": 6, "hidden_dim": 8}


features = partial(random_clips, motion=6, segments=5, kind=ParsingBatch)


def test_is_han_with_one_more_loss():
    torch.manual_seed(0)
    ma = MA(**SIZES).eval()
    torch.manual_seed(0)
    han = HAN(**SIZES).eval()
    assert torch.equal(ma(features()).parsing_probabilities, han(features()).parsing_probabilities)
    assert torch.equal(ma(features()).clip_probabilities, han(features()).clip_probabilities)
    assert HAN.default_loss_weights | {"contrastive": 1.0} == MA.default_loss_weights
    assert HAN.default_label_smoothing == MA.default_label_smoothing


def test_the_contrast_is_cross_entropy_over_the_visual_segments_of_the_clip():
    # cosines: audio 0 with visual 0 and 1: 1 and 0; audio 1: 0.6 and 0.8. Divided by 0.2: 5, 0; 3, 4
    audio = torch.tensor([[[2.0, 0.0], [0.6, 0.8]]])
    visual = torch.tensor([[[1.0, 0.0], [0.0, 5.0]]])
    first = 0.9 * math.log(1 + math.exp(-5)) + 0.1 * (5 + math.log(1 + math.exp(-5)))
    second = 0.9 * math.log(1 + math.exp(-1)) + 0.1 * (1 + math.log(1 + math.exp(-1)))
    assert segment_contrast(audio, visual).item() == pytest.approx((first + second) / 2)


def test_audio_after_the_attention_is_compared_with_visual_before_it():
    torch.manual_seed(0)
    model, found = MA(**SIZES, dropout=0.0), {}
    model.encoder.register_forward_hook(lambda *a: found.update(visual=a[2][1]))
    model.attention.register_forward_hook(lambda *a: found.update(audio=a[2][0]))
    loss = model(features()).losses["contrastive"]
    torch.testing.assert_close(loss, segment_contrast(found["audio"], found["visual"]))


def test_the_contrastive_loss_of_one_segment_is_finite():
    assert MA(**SIZES)(features(segments=1)).losses["contrastive"].isfinite()


def test_the_contrastive_loss_exists_in_training_if_switched_on():
    assert MA(**SIZES)(features()).losses.keys() == {"contrastive"}
    assert MA(**SIZES).eval()(features()).losses == {}
    assert MA(**SIZES, contrastive=False)(features()).losses == {}
