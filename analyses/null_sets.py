"""Is a chosen set of heads better than random ones? Its rank among them, and what they gain.

The chosen set counts as one of the sets that it is ranked among, so that p is never 0: with n random sets it is at
least 1 / (1 + n), which is 0.048 for 20 and 0.0099 for 100. It holds where the gains come from items on which nothing
was chosen, and the sets from `headlens.analyses.head_sets.random_head_sets`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Gains that differ by no more than rounding are equal.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class AmongRandomSets:
    """The `gain` of a chosen set among those of `sets` random ones, all in percentage points; positive is better.

    `as_good` of the random sets gain as much or more, and `p` is (1 + as_good) / (1 + sets): how often a set without
    merit would rank so high. The random gains have `mean` and run from `low` to `high`; NaN without random sets.
    """

    gain: float
    sets: int
    as_good: int
    p: float
    mean: float
    low: float
    high: float

    def described(self) -> str:
        """All of it in one sentence."""
        if self.sets == 0:
            return f"The chosen heads gain {self.gain:+.1f} points; there are no random sets to compare them with."
        return (
            f"The chosen heads gain {self.gain:+.1f} points; {self.sets} random sets of as many heads in each layer "
            f"gain {self.mean:+.1f} on average ({self.low:+.1f} to {self.high:+.1f}), and {self.as_good} of them as "
            f"much or more (p = {self.p:.2g})."
        )


def among_random_sets(gain: float, random_gains: Sequence[float] | np.ndarray) -> AmongRandomSets:
    """Rank the gain of a chosen set among those of random sets. ValueError where a gain is not a number."""
    gains = np.asarray(random_gains, np.float64).reshape(-1)
    if not np.isfinite([gain, *gains]).all():
        raise ValueError("A gain is NaN or infinite; expected percentage points for the chosen and every random set.")
    as_good = int((gains >= gain - _ROUNDING).sum())
    mean, low, high = (gains.mean(), gains.min(), gains.max()) if len(gains) else (np.nan, np.nan, np.nan)
    return AmongRandomSets(
        gain=float(gain),
        sets=len(gains),
        as_good=as_good,
        p=(1 + as_good) / (1 + len(gains)),
        mean=float(mean),
        low=float(low),
        high=float(high),
    )
