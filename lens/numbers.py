"""How the numbers of a map are written for a reader: to a precision that fits the largest of them."""

import numpy as np

from headlens.analyses.headmap import HeadMap


def reach(headmap: HeadMap) -> float:
    """The largest magnitude in the map, which the colour scale spans on both sides of 0; 1 where there is none."""
    present = np.abs(headmap.values[np.isfinite(headmap.values)])
    return float(present.max(initial=0)) or 1.0


def decimals(bound: float) -> int | None:
    """How many decimals to show in a map of this reach; None where only powers of ten read well."""
    if not 1e-4 <= bound < 1e5:
        return None
    power = int(np.floor(np.log10(bound)))
    return max(2 - power, 0) if power >= 0 else 1 - power


def shown(number: float, digits: int | None) -> str:
    """A number in the words of a reader, with a true minus; "missing" for NaN."""
    if np.isnan(number):
        return "missing"
    if digits is None and number == 0:
        return "0"
    # adding 0 turns -0.0 into 0.0
    rounded = f"{number:.2e}" if digits is None else f"{round(float(number), digits) + 0.0:.{digits}f}"
    return rounded.replace("-", "\N{MINUS SIGN}")
