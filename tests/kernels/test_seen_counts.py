"""How many keys and rows see each other, beside counts of pairs."""

import pytest
import torch

from headlens.kernels.seen import Seen
from headlens.kernels.seen_counts import keys_seen, rows_seeing

ROWS, KEYS = 7, 13
CPU = torch.device("cpu")
SOME = torch.rand(2, 3, ROWS, KEYS, generator=torch.Generator().manual_seed(1)) > 0.8
FIRST, END = torch.tensor([0, 8]), torch.tensor([13, 10])
SEEN = {
    "causal": Seen(past=6),
    "causal, no past": Seen(),
    "all": Seen(causal=False),
    "window": Seen(past=6, window=4),
    "window, later keys too": Seen(causal=False, past=3, window=5),
    "ragged": Seen(past=6, first=FIRST, end=END),
    "ragged, nothing left": Seen(past=2, first=FIRST + 4),
    "everything": Seen(past=6, window=5, first=FIRST, end=END),
    "mask of heads": Seen(past=6, mask=SOME),
    "one mask": Seen(past=6, window=4, mask=SOME[:1, :1]),
}


def pairs(seen, batch, row, key):
    own = seen.past + row
    heads = (True,) if seen.mask is None else seen.mask[batch % len(seen.mask), :, row, key].tolist()
    return (
        any(heads)
        and (not seen.causal or key <= own)
        and (seen.window is None or own - key < seen.window)
        and (seen.first is None or key >= seen.first[batch])
        and (seen.end is None or key < seen.end[batch])
    )


@pytest.mark.parametrize("name", SEEN)
def test_counted_pair_by_pair(name):
    seen = SEEN[name]
    counted = torch.tensor([[True, False, True, True, False, True, True], [False, True] * 3 + [True]])
    keys = keys_seen(seen, ROWS, KEYS, CPU).expand(2, -1)
    rows = rows_seeing(seen, counted, KEYS)
    for batch in range(2):
        for row in range(ROWS):
            assert keys[batch, row] == sum(bool(pairs(seen, batch, row, key)) for key in range(KEYS))
        for key in range(KEYS):
            seeing = (bool(counted[batch, row] and pairs(seen, batch, row, key)) for row in range(ROWS))
            assert rows[batch, key] == sum(seeing)
