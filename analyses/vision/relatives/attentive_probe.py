"""Probes of patch features: learned queries that each pool what they look for, or a mean over all (EP, 2506.10178)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AttentiveProbe(nn.Module):
    """Efficient attentive probing (2506.10178): M queries pool a picture's patches for one linear classifier.

        a_m = softmax over patches of q_m . x / sqrt(D) ;  v = W_v x, cut into M slices ;  pooled_m = sum of a_m,n v_n,m
        logits = W [pooled_1, ..., pooled_M] + b

    There is no projection of keys, and one head. Parameters: M D + D D / reduce + D / reduce for queries and values,
    and (D / reduce + 1) classes. Features are first put to mean 0 and deviation 1 in each dimension by `fit_scale`, in
    place of the paper's batch norm behind the pooling, so that a class's logit is a sum over patches (`evidence`).

    ValueError for sizes that do not divide: reduce must divide the width, and the queries width / reduce.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, classes: int, queries: int = 8, reduce: int = 1) -> None:
        super().__init__()
        if min(width, classes, queries, reduce) < 1 or width % reduce or (width // reduce) % queries:
            raise ValueError(
                f"width={width}, classes={classes}, queries={queries}, reduce={reduce} were given; expected reduce to "
                "divide the width, and queries to divide width / reduce, so that each query pools an equal slice."
            )
        self.queries = nn.Parameter(torch.randn(queries, width) / width**0.5)
        self.values = nn.Linear(width, width // reduce)
        self.classifier = nn.Linear(width // reduce, classes)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    @torch.no_grad()
    def fit_scale(self, features: Float[Tensor, "sample patch width"]) -> None:
        """Take mean and deviation from these features; a dimension that never changes is left at deviation 1."""
        flat = features.reshape(-1, features.shape[-1]).double()
        deviation = flat.std(0, correction=0)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1))

    def maps(self, features: Float[Tensor, "sample patch width"]) -> Float[Tensor, "sample query patch"]:
        """The attention of each query; rows add up to 1."""
        x = self._scaled(features)
        return torch.einsum("md,snd->smn", self.queries, x).div(x.shape[-1] ** 0.5).softmax(-1)

    def forward(self, features: Float[Tensor, "sample patch width"]) -> Float[Tensor, "sample class"]:
        slices = self._slices(features)
        return self.classifier(torch.einsum("smn,snmd->smd", self.maps(features), slices).flatten(1))

    def evidence(self, features: Float[Tensor, "sample patch width"]) -> Float[Tensor, "sample class patch"]:
        """What each patch adds to the logit of each class: over patches it sums to the logit without the bias of the
        classifier. Positive speaks for the class."""
        slices = self._slices(features)
        weight = self.classifier.weight.unflatten(1, slices.shape[2:])
        return torch.einsum("smn,snmd,cmd->scn", self.maps(features), slices, weight)

    def _scaled(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation

    def _slices(self, features: Tensor) -> Float[Tensor, "sample patch query slice"]:
        return self.values(self._scaled(features)).unflatten(-1, (len(self.queries), -1))


class MeanProbe(AttentiveProbe):
    """The control: the same values and classifier over the mean of all patches, with even attention and no queries."""

    def __init__(self, width: int, classes: int, reduce: int = 1) -> None:
        super().__init__(width, classes, 1, reduce)
        del self.queries
        self.register_buffer("queries", torch.zeros(1, width))
