"""What a training needs: memory, time and its share of a GPU, from the bytes of its features and from its recipe.

The constants are measured, benchmarks/README.md says on what, and have headroom. Nothing here changes a number of a run.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from avpipe.plan.experiment import Experiment

PROCESS_MB = 1200
"""A training with almost no features: Python, torch and the other libraries."""
EVALUATED = 128
"""Clips that are evaluated together, at least."""
COPIES = 10
"""Sizes of a batch, in float32, that a step takes: the batch, what layers keep for the gradient, and gradients."""
SECONDS_A_CLIP, SECONDS_A_MB = 0.003, 0.02
"""Of one processor for one clip of one epoch: whatever its features are, and for each MB of them in float32."""
RAW_THREADS, WORKER_MB = 8, 600
"""Of a training from clips: threads, and the memory of a process that decodes, which is an estimate."""
KEPT_MB = 1000
"""Memory up to which a training keeps all clips as they are decoded."""
SMALL_CLIP = 1_000_000
"""Numbers of a clip, up to which its training has one thread: several run side by side."""
GPU_MB = 12_000
"""Memory that the smallest GPU for such work has free."""


@dataclass(frozen=True)
class Training:
    """What one job trains.

    Args:
        experiment: what is trained.
        seeds: how many of its seeds; on features all, from clips one.
        clips: of the dataset; 0 as long as there is no manifest.
        numbers: of a clip's features together; of a training from clips a picture a second, and the sound.
        stored: bytes of a clip's features, as stored and as kept in memory; of a decoded clip, 0 if clips are too many to be kept.
    """

    experiment: Experiment
    seeds: int
    clips: int
    numbers: int
    stored: int

    @property
    def threads(self) -> int:
        """One for features, since more would add in another order and change the last digits. Large clips need more."""
        return RAW_THREADS if self.experiment.preset and self.numbers > SMALL_CLIP else 1

    @property
    def features_mb(self) -> int:
        """The features of all clips in memory."""
        return self.clips * self.stored // 10**6 + 1

    @property
    def step_mb(self) -> int:
        """What a step takes beside the features and the process."""
        return COPIES * max(self.experiment.recipe.batch_size, EVALUATED) * 4 * self.numbers // 10**6

    @property
    def memory_mb(self) -> int:
        """Main memory of the job, with the features in it; a multiple of 100."""
        workers = WORKER_MB * (self.threads - 1)
        return -(-(PROCESS_MB + workers + self.step_mb + self.features_mb) // 100) * 100

    @property
    def minutes(self) -> int:
        """Time of the job on one core, an hour at least."""
        return max(60, round(self._seconds / 60))

    @property
    def core_seconds(self) -> float | None:
        """Time of the job on one core; None for a training from clips, whose constants were not measured."""
        return None if self.experiment.preset else self._seconds

    @property
    def _seconds(self) -> float:
        a_clip = SECONDS_A_CLIP + SECONDS_A_MB * 4 * self.numbers / 10**6
        return self.seeds * self.experiment.recipe.epochs * self.clips * a_clip

    @property
    def gpu_percent(self) -> int:
        """The share of a GPU: 25, 50, or 100, the whole one."""
        needed = self.memory_mb / GPU_MB
        return 25 if needed <= 0.25 else 50 if needed <= 0.5 else 100


def free_memory() -> int:
    """Bytes of main memory that are free now, or can be freed, within the limit of a container or batch job."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():  # counts memory that the page cache can give back
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0)
