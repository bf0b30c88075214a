"""Measures log-mel spectrograms of 10 s clips, avpipe and torchvggish's `waveform_to_examples` in turn, on all cores.

The ratio compares avpipe with one call of torchvggish per second, as AVE and LLP do, which gives the same spectrograms.
One call per clip is cheaper for torchvggish, and gives other spectrograms (0.96 s apart); it is printed too. avpipe takes a batch of clips. Both compute the FFT in double precision. numpy's BLAS gets one thread: with
two it is slower here (9 ms instead of 3 for a clip), and its idle threads disturb avpipe's turn.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torchvggish.vggish_input import waveform_to_examples

from avpipe.media.logmel import SAMPLE_RATE, log_mel

CLIPS, SECONDS, ROUNDS = 16, 10, 9


def main() -> None:
    time_axis = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    rng = np.random.default_rng(0)
    tones = np.sin(2 * np.pi * rng.uniform(50, 7_000, (CLIPS, 1)) * time_axis)
    clips = (0.3 * tones + 0.1 * rng.normal(size=tones.shape)).astype(np.float32)
    batch = torch.from_numpy(clips)
    slices = clips.reshape(CLIPS, SECONDS, SAMPLE_RATE)

    sides: dict[str, Callable[[], object]] = {
        "avpipe": lambda: log_mel(batch, SAMPLE_RATE),
        "a call a clip": lambda: [waveform_to_examples(clip, SAMPLE_RATE) for clip in clips],
        "a call a second": lambda: [
            waveform_to_examples(second, SAMPLE_RATE) for clip in slices for second in clip
        ],
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(ROUNDS + 1):
        for side, work in sides.items():
            started = time.perf_counter()
            work()
            if number:  # the first warms the caches
                seconds[side].append(time.perf_counter() - started)
    clip = {side: statistics.median(taken) / CLIPS * 1_000 for side, taken in seconds.items()}
    expected = np.concatenate(
        [waveform_to_examples(s, SAMPLE_RATE, return_tensor=False) for c in slices for s in c]
    )
    difference = np.abs(log_mel(batch, SAMPLE_RATE).flatten(0, 1).numpy() - expected).max()
    by_second, by_clip = clip["a call a second"], clip["a call a clip"]
    print(
        f"| log-mel, ms a 10 s clip: avpipe {clip['avpipe']:.2f}, torchvggish second by second {by_second:.2f} "
        f"(one call a clip, 0.96 s hop: {by_clip:.2f}); largest difference {difference:.0e} "
        f"| {by_second / clip['avpipe']:.1f}x ({by_clip / clip['avpipe']:.1f}x) | >= 5x, 1e-4 |"
    )


if __name__ == "__main__":
    main()
