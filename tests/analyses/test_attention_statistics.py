"""Statistics of blocks of rows against the recorded patterns, gone through one row at a time."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch.utils._python_dispatch import TorchDispatchMode
from transformer_lens import head_detector

from headlens.analyses.attention_statistics import head_stats
from headlens.analyses.row_readings import STATISTICS
from headlens.hooks import attention_taps
from headlens.hooks.edits import Call
from headlens.hooks.groups import First, Massive, Recent, TokenIds
from headlens.hooks.recalibrate import Recalibrate
from headlens.hooks.row_blocks import row_blocks
from tiny_models import IMAGE_TOKEN, N_IMAGE_TOKENS, held, inputs_for

ARCHITECTURES = ("llama", "gpt2", "gemma2", "gemma3", "mistral", "gpt_oss")
# Words come again, next to themselves and far apart.
IDS = torch.tensor([[7, 5, 9, 7, 7, 5, 30, 9, 7, 41, 5, 9, 8], [60, 61, 62, 60, 63, 64, 62, 62, 62, 65, 66, 60, 61]])
OF_ONE_RUN = [name for name in STATISTICS if name != "divergence"]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of three rows of the prompts above, and of fewer where more prompts run together."""
    small = partial(row_blocks, most=3 * 4 * 2 * 4 * 13)
    monkeypatch.setattr(attention_taps, "row_blocks", small)


def patterns(model, ids, **kwargs):
    """[prompt, layer, head, query, key] in float64."""
    with torch.no_grad():
        _, cache = model.record(ids, names_filter="pattern", **kwargs)
    return (
        torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.n_layers)], 1).double().numpy()
    )


def window_of(name, layer):
    """How many keys a row sees at most."""
    windows = {"gemma2": (5, 99, 5), "gemma3": (5, 99, 5), "gpt_oss": (5, 99, 5), "mistral": (6, 6, 6)}
    return windows.get(name, (99, 99, 99))[layer]


def one_by_one(whole, ids, name):
    """The statistics of one prompt [layer, head, query, key], row by row."""
    layers, heads, length, _ = whole.shape
    found = {what: np.full((layers, heads), np.nan) for what in OF_ONE_RUN}
    found |= {what: np.full((layers, heads, length), np.nan) for what in ("received", "top_key", "top_mass")}
    for layer, head in np.ndindex(layers, heads):
        rows = {what: [] for what in OF_ONE_RUN}
        for q in range(length):
            row, seen = whole[layer, head, q], range(max(0, q - window_of(name, layer) + 1), q + 1)
            found["top_key"][layer, head, q] = row.argmax()
            found["top_mass"][layer, head, q] = row.max()
            copies = [k for k in range(q) if ids[k] == ids[q]]
            for what, keys in {"duplicate": copies, "induction": [k + 1 for k in copies]}.items():
                if any(k in seen for k in keys):
                    rows[what].append(sum(row[k] for k in keys))
            if len(seen) > 1:
                rows["entropy"].append(-sum(a * math.log(a) for a in row if a > 0))
                rows["first_token"].append(row[0])
                rows["previous_token"].append(row[q - 1])
                rows["self"].append(row[q])
                rows["distance"].append(sum(row[k] * (q - k) for k in seen) / sum(row[k] for k in seen))
        for what, values in rows.items():
            if values:
                found[what][layer, head] = sum(values) / len(values)
        for k in range(length):
            seeing = [q for q in range(k, length) if q - k < window_of(name, layer)]
            found["received"][layer, head, k] = sum(whole[layer, head, q, k] for q in seeing) / len(seeing)
    return found


@pytest.mark.parametrize("batch", [1, 2, None])
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.usefixtures("small_blocks")
def test_every_statistic_is_that_of_the_recorded_rows(name, batch):
    found = head_stats(held(name), IDS, OF_ONE_RUN, batch=batch, progress=False)
    for prompt, whole in enumerate(patterns(held(name), IDS)):
        for what, want in one_by_one(whole, IDS[prompt].tolist(), name).items():
            np.testing.assert_allclose(found[what].samples[prompt], want, rtol=0, atol=2e-5, err_msg=what)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_large_blocks_say_the_same(name):
    found = head_stats(held(name), IDS[:1], "received", progress=False)["received"]
    want = one_by_one(patterns(held(name), IDS[:1])[0], IDS[0].tolist(), name)["received"]
    np.testing.assert_allclose(found.samples[0], want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_heads_score_as_transformer_lens_has_them(name):
    found = head_stats(held(name), IDS[:1], ("previous_token", "duplicate", "induction"), progress=False)
    whole, length = torch.from_numpy(patterns(held(name), IDS[:1])[0]), IDS.shape[1]
    for what, theirs in {"previous_token": "previous", "duplicate": "duplicate", "induction": "induction"}.items():
        detector = getattr(head_detector, f"get_{theirs}_token_head_detection_pattern", None)
        detector = detector or head_detector.get_induction_head_detection_pattern
        wanted = detector(IDS[:1])
        rows = int(wanted.any(-1).sum())
        for layer, head in np.ndindex(3, 4):
            score = head_detector.compute_head_attention_similarity_score(
                whole[layer, head],
                wanted.double(),
                exclude_bos=False,
                exclude_current_token=False,
                error_measure="mul",
            )
            # theirs is a share of all rows' attention, ours a mean over the rows that it is about
            assert found[what].values[layer, head] == pytest.approx(score * length / rows, abs=1e-5)


def test_a_prompt_without_copies_has_no_number_and_leaves_the_mean_alone():
    ids = torch.stack([IDS[0], torch.arange(10, 23)])
    found = head_stats(held("llama"), ids, ["duplicate", "induction"], progress=False)
    for each in found.values():
        assert np.isnan(each.samples[1]).all()
        np.testing.assert_array_equal(each.values, each.samples[0])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss"])
@pytest.mark.usefixtures("small_blocks")
def test_divergence_is_scipys_of_the_recorded_rows(name, batch):
    other = IDS.flip(1)
    found = head_stats(held(name), IDS, ["entropy", "divergence"], other=other, batch=batch, progress=False)
    one, two = patterns(held(name), IDS)[..., 1:, :], patterns(held(name), other)[..., 1:, :]
    middle = (one + two) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.nan_to_num(one * np.log(one / middle)) + np.nan_to_num(two * np.log(two / middle))
    want = terms.sum(-1) / 2
    if name != "gpt_oss":
        # with learned sinks rows do not sum to 1, and scipy divides by their sums
        np.testing.assert_allclose(want, jensenshannon(one, two, axis=-1) ** 2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["divergence"].samples, want.mean(-1), rtol=0, atol=1e-5)
    alone = head_stats(held(name), IDS, "entropy", progress=False)["entropy"]
    np.testing.assert_allclose(found["entropy"].samples, alone.samples, rtol=0, atol=1e-5)


def test_a_run_does_not_differ_from_itself():
    found = head_stats(held("llama"), IDS, "divergence", other=IDS, progress=False)["divergence"]
    np.testing.assert_allclose(found.values, 0, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gpt_oss", "bert"])
@pytest.mark.usefixtures("small_blocks")
def test_a_padded_prompt_is_what_it_is_alone(name, side):
    real = slice(5, 13) if side == "left" else slice(0, 8)
    # padding is of a token that the prompt has too, and it is no copy of it
    ids, mask = torch.stack([IDS[0], torch.full((13,), 60)]), torch.zeros(2, 13, dtype=torch.long)
    ids[1, real], mask[0], mask[1, real] = IDS[1, :8], 1, 1
    groups = {"start": First(2), "sixties": TokenIds((60, 61)), "all": Recent(99)}
    measure = partial(head_stats, held(name), what=[*STATISTICS], groups=groups, progress=False)
    inputs, other = {"input_ids": ids, "attention_mask": mask}, {"input_ids": ids.flip(0) + 1, "attention_mask": mask}
    together = measure(inputs, other=other)
    alone = measure(IDS[1:, :8], other=other["input_ids"][1:, real])
    for what, one in alone.items():
        found, want = together[what].samples[1], one.samples[0].copy()
        if "key" in one.dims or "query" in one.dims:
            assert np.isnan(np.delete(found, np.r_[real], -1)).all()
            found = found[..., real]
        if what == "top_key":
            want += real.start
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-5, err_msg=what)
    assert together["received"].values.shape == (3, 4, 13)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss"])
@pytest.mark.usefixtures("small_blocks")
def test_groups_are_the_sums_of_their_keys(name):
    own = torch.tensor([[0, 3], [2, 1]])
    resid = {}
    with torch.no_grad():
        _, cache = held(name).record(IDS, names_filter="resid_pre")
    resid = torch.stack([cache[f"blocks.{layer}.hook_resid_pre"] for layer in range(3)], 1)
    massive = (resid.abs() / resid.pow(2).mean(-1, keepdim=True).sqrt())[..., 4] > 1.0
    groups = {
        "first": "first",
        "sevens": TokenIds((7, 61)),
        "own": own,
        "massive": Massive((4,), 1.0),
        "both": [own, 0],
    }
    found = head_stats(held(name), IDS, (), groups=groups, batch=1, progress=False)
    whole = patterns(held(name), IDS)[..., 1:, :]
    at_own = torch.zeros(2, 13, dtype=torch.bool).scatter(1, own, True)
    which = {
        "first": torch.arange(13) == 0,
        "sevens": torch.isin(IDS, torch.tensor([7, 61]))[:, None],
        "own": at_own[:, None],
        "massive": massive,
        "both": (at_own | (torch.arange(13) == 0))[:, None],
    }
    assert [*found] == [*groups]
    for what, keys in which.items():
        mask = np.broadcast_to(keys.numpy(), (2, 3, 13))[:, :, None, None]
        np.testing.assert_allclose(
            found[what].samples, (whole * mask).sum(-1).mean(-1), rtol=0, atol=1e-5, err_msg=what
        )


def test_groups_see_the_other_run_beside_them():
    groups = {"own": torch.tensor([[0, 3], [2, 1]]), "sevens": TokenIds((7, 61))}
    found = head_stats(held("llama"), IDS, "divergence", other=IDS + 1, groups=groups, progress=False)
    alone = head_stats(held("llama"), IDS, (), groups=groups, progress=False)
    for name, want in alone.items():
        np.testing.assert_allclose(found[name].samples, want.samples, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_rows_are_those_that_an_edit_leaves():
    model = held("llama")
    plain = head_stats(model, IDS, "first_token", progress=False)["first_token"]
    with model.edited(Recalibrate("L1H2", donors="first", receivers="rest", beta=0.25, policy="transfer")):
        found = head_stats(model, IDS, "first_token", groups={"start": First(1)}, progress=False)
    edited = found["first_token"]
    np.testing.assert_allclose(found["start"].values, edited.values, rtol=1e-5)
    np.testing.assert_allclose(edited.values[1, 2], plain.values[1, 2] / 4, rtol=1e-4)
    np.testing.assert_array_equal(edited.values[0], plain.values[0])
    assert not np.allclose(edited.values[2], plain.values[2])
    np.testing.assert_array_equal(
        head_stats(model, IDS, "first_token", progress=False)["first_token"].values, plain.values
    )


class Largest(TorchDispatchMode):
    """How many entries the largest tensor has that any operation makes."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            # a view may be larger than what it stands on
            self.entries = max(
                self.entries, tensor.untyped_storage().size() // 4 if isinstance(tensor, torch.Tensor) else 0
            )
        return made


def test_no_tensor_is_as_large_as_one_heads_pattern(monkeypatch):
    monkeypatch.setattr(attention_taps, "row_blocks", partial(row_blocks, most=2**17))
    length = 400
    ids = torch.randint(4, 90, (1, length), generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        head_stats(held("llama"), ids, OF_ONE_RUN, groups={"first": "first"}, progress=False)
    assert 0 < largest.entries < length**2


def test_patches_of_an_image_are_no_copies():
    inputs = inputs_for("llava", batch=1, length=11)
    inputs["input_ids"][0, -11:] = torch.tensor([4, 5, 6, 7, 8, 9, 10, 11, 12, 9, 13])
    whole = patterns(held("llava"), inputs)[0]
    assert int((inputs["input_ids"] == IMAGE_TOKEN).sum()) == N_IMAGE_TOKENS
    found = head_stats(held("llava"), inputs, "duplicate", progress=False)["duplicate"]
    np.testing.assert_allclose(found.values, whole[:, :, -2, -6], rtol=0, atol=1e-5)


def test_pictures_have_rows_too():
    found = head_stats(held("vit"), inputs_for("vit"), ["entropy", "received"], batch=1, progress=False)
    whole = patterns(held("vit"), inputs_for("vit"))
    np.testing.assert_allclose(found["entropy"].samples, -(whole * np.log(whole)).sum(-1).mean(-1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["received"].samples, whole.mean(-2), rtol=0, atol=1e-5)


@pytest.mark.real
def test_the_real_model_has_induction_and_previous_token_heads(smollm2):
    text = smollm2.to_tokens("Mary has a red kite and Tom owns the small green boat near our old bridge.")
    ids = torch.cat([text, text], 1)
    found = head_stats(smollm2, ids, ("induction", "previous_token", "first_token"), progress=False)
    assert found["induction"].values.max() > 0.6 > 10 * np.median(found["induction"].values)
    assert found["previous_token"].values.max() > 0.6
    assert found["first_token"].values.max() > 0.8


def test_an_edit_of_the_pattern_is_seen():
    model, tokens = held("llama"), inputs_for("llama")["input_ids"]
    with model.edited(Call("blocks.1.attn.hook_pattern", lambda pattern, hook: torch.zeros_like(pattern))):
        found = head_stats(model, tokens, "first_token", progress=False)["first_token"].values
    assert (found[1] == 0).all() and (found[0] > 0).all()
