"""VGGish's log-mel spectrograms in batches, one example for each whole second.

The recipe is TensorFlow's `research/audioset/vggish` (as torchvggish's `waveform_to_examples`): 16 kHz mono, periodic Hann
window of 400 samples every 160, *magnitude* of an FFT of 512 (no centring, no padding), 64 triangles that are linear in HTK
mel between 125 and 7,500 Hz with the DC bin left out, `log(mel + 0.01)`, 96 frames an example.

The features of AVE and LLP come from each second *alone*: 16,000 samples give 98 frames, the first 96 are the example. With
VGGish's own hop of 0.96 s, example 9 would start at 8.64 s instead of 9 s.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
FRAMES = 96
BANDS = 64
_WINDOW, _HOP, _FFT = 400, 160, 512
_LOWEST_HERTZ, _HIGHEST_HERTZ = 125.0, 7_500.0
_LOG_OFFSET = 0.01
_SECONDS_A_PASS = 5  # seconds of sound that each CPU thread transforms at a time, so that they fit its cache
_SECONDS_A_PASS_CUDA = 2_048


def log_mel(waveform: Tensor, sample_rate: int, *, channel_axis: int | None = None) -> Tensor:
    """The log-mel examples of every whole second of `waveform`.

    The FFT runs in float64: beside a loud tone, float32 noise of 1e-5 in a silent band would become 1e-3 in the logarithm.

    Args:
        waveform: (..., samples), floating point in [-1, 1], or int16 (divided by 32,768). Leading axes are a batch of mono
            signals.
        sample_rate: of `waveform`, in Hz. Other rates than 16,000 are resampled as a whole by
            `torchaudio.functional.resample`; torchvggish uses resampy, which differs slightly.
        channel_axis: axis of the channels, which are averaged first; None: there is none.

    Returns:
        (..., S, 96, 64), S = whole seconds; a remainder is left out. float64 if `waveform` is float64, else float32.

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
        from torchaudio.functional import resample  # takes half a second to import

        waveform = resample(waveform.to(dtype), sample_rate, SAMPLE_RATE)
    seconds = waveform.shape[-1] // SAMPLE_RATE
    slices = waveform[..., : seconds * SAMPLE_RATE].reshape(-1, SAMPLE_RATE)
    examples = slices.new_empty((slices.shape[0], FRAMES, BANDS), dtype=dtype)
    step = _SECONDS_A_PASS_CUDA if waveform.is_cuda else _SECONDS_A_PASS * torch.get_num_threads()
    step = min(step, max(1, slices.shape[0]))
    transform = _Transform(step, dtype, waveform.device)
    for start in range(0, slices.shape[0], step):
        part = slice(start, start + step)
        transform(slices[part], examples[part])
    return examples.reshape(*waveform.shape[:-1], seconds, FRAMES, BANDS)


def seconds_of(waveform: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.float32]:
    """Whole seconds at 16 kHz in one channel: (samples,) or (samples, channels) -> (S, 16000)."""
    mono = waveform if waveform.ndim == 1 else waveform.mean(axis=1)
    if sample_rate != SAMPLE_RATE:
        from torchaudio.functional import resample

        mono = resample(torch.from_numpy(mono), sample_rate, SAMPLE_RATE).numpy()
    return mono[: len(mono) // SAMPLE_RATE * SAMPLE_RATE].reshape(-1, SAMPLE_RATE)


class _Transform:
    """(N, 16000) -> (N, 96, 64) for N <= `step`; window and matrix are made once for all passes."""

    def __init__(self, step: int, dtype: torch.dtype, device: torch.device) -> None:
        self.window = torch.hann_window(_WINDOW, periodic=True, dtype=torch.float64, device=device)
        self.padded = torch.zeros((step, FRAMES, _FFT), dtype=torch.float64, device=device)
        # the mel matrix in groups of bands, each with its own bins: a fourth of the products
        matrix = mel_matrix()
        touched = [_span(group) for group in matrix.split(BANDS // 4, dim=1)]
        self.bins = slice(touched[0].start, touched[-1].stop)
        self.groups = [
            (slice(span.start - self.bins.start, span.stop - self.bins.start), group[span].to(device, dtype))
            for span, group in zip(touched, matrix.split(BANDS // 4, dim=1), strict=True)
        ]

    def __call__(self, seconds: Tensor, out: Tensor) -> None:
        padded = self.padded[: len(seconds)]
        torch.mul(seconds.unfold(-1, _WINDOW, _HOP)[:, :FRAMES], self.window, out=padded[..., :_WINDOW])
        spectrum = torch.view_as_real(torch.fft.rfft(padded))[:, :, self.bins].to(
            out.dtype
        )  # (N, 96, bins, 2)
        # abs() of complex numbers takes three times as long, to avoid an overflow that cannot occur in [-1, 1]
        spectrum.square_()
        magnitude = (spectrum[..., 0] + spectrum[..., 1]).sqrt_()  # (N, 96, bins)
        mel = [magnitude[..., bins] @ matrix for bins, matrix in self.groups]
        torch.cat(mel, -1, out=out).add_(_LOG_OFFSET).log_()


def _span(matrix: Tensor) -> slice:
    """The rows from the first to the last that are not zero."""
    rows = matrix.any(1).nonzero()
    return slice(int(rows[0]), int(rows[-1]) + 1)


@cache
def mel_matrix() -> Tensor:
    """(257, 64) float64: the weight of each FFT bin in each mel band, by VGGish's definition (not torchaudio's)."""

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
