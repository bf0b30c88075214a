"""What a table must know of a metric to print it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A task's metric, without torch. A run's metrics.json records its fields beside its values.

    Args:
        heading: its name in words.
        unit: "%" is recorded as a fraction and printed times 100; any other unit is printed as recorded ("dB"; "" for a
            fraction or a plain number).
        higher_is_better: direction; false for losses and errors.
        decimals: of the printed number.
    """

    heading: str
    unit: str
    higher_is_better: bool = True
    decimals: int = 1

    def printed(self, value: float) -> float:
        """The recorded value as it is printed."""
        return 100 * value if self.unit == "%" else value

    def better(self, new: float, old: float | None) -> bool:
        """Whether `new` is strictly better than `old`. Any number but NaN is better than None."""
        if old is None:
            return new == new
        return new > old if self.higher_is_better else new < old
