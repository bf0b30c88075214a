"""VGGish's log-mel spectrograms of whole batches, one example a whole second.

The recipe is TensorFlow's `research/audioset/vggish` (the same in torchvggish's `waveform_to_examples`):
16 kHz mono, periodic Hann window of 400 samples every 160, FFT of 512 *magnitude* (no centring, no padding),
64 triangles that are linear in HTK mel between 125 and 7,500 Hz with the DC bin left out,
`log(mel + 0.01)`, 96 frames an example.

The features of AVE and LLP come from each second *alone*: 16,000 samples give 98 frames, the first 96 of which
are the example. VGGish's own 0.96 s hop would let example 9 start at 8.64 s instead of 9 s.
"""

from functools import cache

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
FRAMES = 96
BANDS = 64
_WINDOW, _HOP, _FFT = 400, 160, 512
_LOWEST_HERTZ, _HIGHEST_HERTZ = 125.0, 7_500.0
_LOG_OFFSET = 0.01
_SECONDS_A_PASS = 10
"""Seconds that the processor transforms at a time, so that the frames in flight stay in its cache."""
_SECONDS_A_PASS_CUDA = 2_048


def log_mel(waveform: Tensor, sample_rate: int, *, channel_axis: int | None = None) -> Tensor:
    """The log-mel examples of every whole second of `waveform`.

    The FFT runs in double precision: beside a loud tone a silent band holds 1e-5 of single-precision noise, which
    the logarithm would turn into 1e-3.

    Args:
        waveform: (..., samples), floating point in [-1, 1], or int16 (divided by 32,768). Leading axes are a
            batch of mono signals.
        sample_rate: of `waveform`, in Hz. Other rates than 16,000 are resampled (whole signal first, then cut
            into seconds) by `torchaudio.functional.resample`; torchvggish takes resampy, which differs slightly.
        channel_axis: the axis of channels, averaged to mono first, if `waveform` has one.

    Returns:
        (..., S, 96, 64), S = whole seconds; a tail shorter than a second is left out. float64 if `waveform` is
        float64, else float32.

    Raises:
        ValueError: for integers other than int16, a complex waveform, or a rate that is not positive.
    """
    if sample_rate <= 0:
        raise ValueError(f"sample_rate is {sample_rate}; expected a positive number of Hz")
    if waveform.dtype == torch.int16:
        waveform = waveform.to(torch.float32) / 32_768
    if not waveform.is_floating_point():
        raise ValueError(f"waveform is {waveform.dtype}; expected floating point in [-1, 1], or int16")
    if channel_axis is not None:
        waveform = waveform.mean(channel_axis)
    dtype = torch.float64 if waveform.dtype == torch.float64 else torch.float32
    if sample_rate != SAMPLE_RATE:
        from torchaudio.functional import resample  # half a second to import, seldom needed

        waveform = resample(waveform.to(dtype), sample_rate, SAMPLE_RATE)
    seconds = waveform.shape[-1] // SAMPLE_RATE
    slices = waveform[..., : seconds * SAMPLE_RATE].reshape(-1, SAMPLE_RATE)
    examples = slices.new_empty((slices.shape[0], FRAMES, BANDS), dtype=dtype)
    step = _SECONDS_A_PASS_CUDA if waveform.is_cuda else _SECONDS_A_PASS
    for start in range(0, slices.shape[0], step):
        part = slice(start, start + step)
        examples[part] = _examples(slices[part], dtype)
    return examples.reshape(*waveform.shape[:-1], seconds, FRAMES, BANDS)


def _examples(seconds: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, 16000) -> (N, 96, 64)."""
    frames = seconds.to(torch.float64).unfold(-1, _WINDOW, _HOP)[:, :FRAMES]  # (N, 96, 400)
    window = torch.hann_window(_WINDOW, periodic=True, dtype=torch.float64, device=seconds.device)
    spectrum = torch.fft.rfft(frames * window, _FFT)  # (N, 96, 257)
    # abs() of a complex number guards against overflow that samples in [-1, 1] cannot cause: three times the time
    magnitude = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag).to(dtype).sqrt_()
    return (magnitude @ mel_matrix().to(magnitude)).add_(_LOG_OFFSET).log_()


@cache
def mel_matrix() -> Tensor:
    """(257, 64) float64: the weight of each FFT bin in each mel band, as VGGish defines it (not torchaudio's)."""

    def mel(hertz: Tensor) -> Tensor:
        return 1_127.0 * torch.log1p(hertz / 700.0)

    def spaced(low: Tensor, high: Tensor, count: int) -> Tensor:
        return low + (high - low) * torch.arange(count, dtype=torch.float64) / (count - 1)

    ends = torch.tensor([0.0, SAMPLE_RATE / 2, _LOWEST_HERTZ, _HIGHEST_HERTZ], dtype=torch.float64)
    bins = mel(spaced(ends[0], ends[1], _FFT // 2 + 1))[:, None]  # (257, 1)
    edges = spaced(mel(ends[2]), mel(ends[3]), BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    matrix = torch.minimum(rising, falling).clamp_(min=0.0)
    matrix[0] = 0.0
    return matrix
