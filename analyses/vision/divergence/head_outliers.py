"""Two rules of 2412.13949 about the heads of one layer: which are outliers, and which are reinforced."""

from jaxtyping import Bool, Float
from torch import Tensor


def outlying(
    divergence: Float[Tensor, "*layer head"], text_activation: Float[Tensor, "*layer head"]
) -> Bool[Tensor, "*layer head"]:
    """Heads that surge when the picture disappears, whose divergence says nothing of what they see.

    `divergence` is |z - z'|, and `text_activation` |z'|^2, of the run without the picture. A head is an outlier where
    both are more than one standard deviation above their mean over the layer's heads. The paper does not say which
    deviation; here it is that of the heads there are (divided by their number, not by one less).
    """
    return _high(divergence) & _high(text_activation)


def above_median(divergence: Float[Tensor, "*layer head"]) -> Bool[Tensor, "*layer head"]:
    """Heads whose divergence is above the median of their layer: half of an even number of heads without ties.

    The median is the lower of the two in the middle, as torch has it; a layer whose heads are all equal has none above.
    """
    return divergence > divergence.median(-1, keepdim=True).values


def _high(values: Tensor) -> Tensor:
    return values > values.mean(-1, keepdim=True) + values.std(-1, correction=0, keepdim=True)
