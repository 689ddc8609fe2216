"""Training probes of patch features, the same for the same seed."""

from typing import TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from headlens.analyses.vision.relatives.attentive_probe import AttentiveProbe, MeanProbe

Probe = TypeVar("Probe", bound=AttentiveProbe)


def train_probe(
    features: Float[Tensor, "sample patch width"],
    labels: Shaped[Tensor, "sample *class"],
    *,
    queries: int = 8,
    reduce: int = 1,
    epochs: int = 100,
    lr: float = 1e-2,
    weight_decay: float = 0.05,
    batch: int = 64,
    seed: int = 0,
) -> AttentiveProbe:
    """An attentive probe (2506.10178) of frozen features, for "where among the patches is this class?".

    Labels are class numbers [sample] (cross-entropy), or presence [sample, class] of 0 and 1 (each class on its own).
    Trained by AdamW with a cosine schedule; the paper has LARS, batches of 4096 and 90 epochs, and 32 queries. A probe
    that does well says that the class can be read off the features, not that the model does so; hold out samples, by
    scene, and compare `train_mean_probe`.

    Args:
        features: of the pictures, such as `patch_features` gives.
        labels: see above.
        queries: M, which must divide width / reduce.
        reduce: how many times narrower values are than features.
        epochs, lr, weight_decay, batch: of training.
        seed: of the first weights and the order of samples; global random state is left alone.

    Returns:
        The probe, in evaluation mode: `probe(features)` are logits, `.maps` and `.evidence` say where.

    Raises:
        ValueError: for features and labels of another number of samples or other kinds of labels, sizes that do not
            divide, fewer than one epoch or sample in a batch.
    """
    classes = _classes(features, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = AttentiveProbe(features.shape[-1], classes, queries, reduce)
    return _trained(probe, features, labels, epochs, lr, weight_decay, batch, seed)


def train_mean_probe(
    features: Float[Tensor, "sample patch width"],
    labels: Shaped[Tensor, "sample *class"],
    *,
    reduce: int = 1,
    epochs: int = 100,
    lr: float = 1e-2,
    weight_decay: float = 0.05,
    batch: int = 64,
    seed: int = 0,
) -> MeanProbe:
    """The control of `train_probe`: a linear probe of the mean over patches, through values of the same width and by
    the same training. A plain linear probe reads the width of the features; with reduce=1 this one can say all
    that it can.

    Arguments, result and errors are those of `train_probe`, without queries.
    """
    classes = _classes(features, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = MeanProbe(features.shape[-1], classes, reduce)
    return _trained(probe, features, labels, epochs, lr, weight_decay, batch, seed)


def _trained(
    probe: Probe,
    features: Tensor,
    labels: Tensor,
    epochs: int,
    lr: float,
    weight_decay: float,
    batch: int,
    seed: int,
) -> Probe:
    if epochs < 1 or batch < 1:
        raise ValueError(f"epochs={epochs} and batch={batch} were given; expected at least one of each.")
    features = features.detach()
    probe = probe.to(features.device, features.dtype)
    probe.fit_scale(features)
    several = labels.ndim == 2
    loss = nn.functional.binary_cross_entropy_with_logits if several else nn.functional.cross_entropy
    wanted = labels.to(features) if several else labels.long()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=weight_decay)
    steps = epochs * -(-len(features) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(epochs):
            for some in torch.randperm(len(features), generator=draw).split(batch):
                optimizer.zero_grad()
                loss(probe(features[some]), wanted[some]).backward()
                optimizer.step()
                schedule.step()
    return probe.eval().requires_grad_(False)


def _classes(features: Tensor, labels: Tensor) -> int:
    """How many classes there are."""
    if features.ndim != 3 or not len(features) or len(labels) != len(features) or labels.ndim not in (1, 2):
        raise ValueError(
            f"Features {[*features.shape]} and labels {[*labels.shape]} were given; expected [sample, patch, width] "
            "and one label for each sample, [sample] or [sample, class]."
        )
    if labels.ndim == 2:
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise ValueError("Labels [sample, class] are presence, 0 or 1, and others were given.")
        return labels.shape[1]
    if labels.dtype.is_floating_point or bool((labels < 0).any()):
        raise ValueError("Labels [sample] are numbers of classes from 0, and others were given.")
    return int(labels.max()) + 1
