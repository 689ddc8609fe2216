"""How large a batch a GPU's memory allows, by a card that is not there, and what a replay really holds."""

import pytest
import torch

from headlens.hooks import room, sweep
from headlens.hooks.base_run import record_base
from headlens.hooks.cells import Rows
from headlens.hooks.gradients import site_gradients
from headlens.hooks.model import wrap
from headlens.hooks.room import (
    bytes_per_row,
    gradient_bytes_per_row,
    gradient_rows_of_the_card,
    gradient_rows_that_fit,
    rows_of_the_card,
    rows_that_fit,
)
from live_bytes import LiveBytes
from small_engines import engine, every_head
from tiny_models import VOCABULARY, held, tiny


def on_cards(monkeypatch, free, whole=80 * 2**30, reserved=0, allocated=0):
    """Layers of tiny models on as many GPUs as `free` has entries, in turns."""
    cards = [torch.device("cuda", index) for index in range(len(free))]
    blocks = {}
    monkeypatch.setattr(room, "device_of", lambda block: cards[blocks.setdefault(block, len(blocks)) % len(cards)])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], whole))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)


def test_a_model_on_the_cpu_has_no_such_bound():
    model = held("llama")
    assert rows_that_fit(model, 13, 8, 0.25) is None and rows_of_the_card(model, 13, 8) is None
    assert gradient_rows_that_fit(model, 13, 8, 0.25) is None and gradient_rows_of_the_card(model, 13, 8) is None


def test_what_is_free_counts_and_what_torch_holds_unused(monkeypatch):
    on_cards(monkeypatch, [10_000_000], whole=50_000_000, reserved=5_000_000, allocated=2_000_000)
    row = bytes_per_row(held("llama"), 13, 8, 0.25)
    assert rows_that_fit(held("llama"), 13, 8, 0.25) == 9_100_000 // row
    assert rows_of_the_card(held("llama"), 13, 8) == 35_000_000 // bytes_per_row(held("llama"), 13, 8, 0.0)


def test_the_fullest_card_decides(monkeypatch):
    on_cards(monkeypatch, [30_000_000, 10_000_000, 20_000_000])
    assert rows_that_fit(held("llama"), 13, 8, 0.0) == 7_000_000 // bytes_per_row(held("llama"), 13, 8, 0.0)


@pytest.mark.parametrize(("length", "start", "tokens"), [(13, 5, True), (40, 2, True), (40, 35, False)])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss", "phi3", "llama in bfloat16"])
def test_a_row_takes_no_more_than_is_estimated(name, length, start, tokens, monkeypatch):
    model = wrap(tiny("llama").bfloat16()) if "bfloat16" in name else held(name)
    monkeypatch.setattr(sweep, "ROWS", 10**9)
    own = engine(model, length=length, start=start, tokens=tokens)
    cells, rows = every_head(model), Rows.everywhere(3, length)
    own.patched(cells, rows, lambda logits: logits)
    with LiveBytes() as bytes_:
        own.patched(cells, rows, lambda logits: logits.float().log_softmax(-1))
    held_by_one = bytes_.most / (len(cells) * 3 * (length - start))
    estimate = bytes_per_row(model, length, length - start, own.base_logits[0].numel() / (length - start))
    assert held_by_one <= estimate <= 4 * held_by_one


@pytest.mark.parametrize("site", ["z", "pattern", "resid_pre"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss", "phi3"])
def test_a_row_of_a_backward_pass_takes_no_more_than_is_estimated(name, site):
    model, pairs = held(name), engine(held(name), length=40, start=2).pairs
    base = record_base(model, pairs.base, 2)
    with LiveBytes() as bytes_:
        site_gradients(model, base, pairs.other, site, [0.2, 0.7], lambda logits: logits.log_softmax(-1)[..., 7])
    held_by_one = bytes_.most / (2 * 3 * 38)
    estimate = gradient_bytes_per_row(model, 40, 38, VOCABULARY / 38)
    assert held_by_one <= estimate <= 4 * held_by_one


def test_backward_passes_have_fewer_rows_on_the_same_card(monkeypatch):
    on_cards(monkeypatch, [10_000_000], whole=50_000_000)
    model = held("llama")
    assert gradient_rows_that_fit(model, 13, 8, 15.0) == 7_000_000 // gradient_bytes_per_row(model, 13, 8, 15.0)
    assert gradient_rows_of_the_card(model, 13, 8) == 35_000_000 // gradient_bytes_per_row(model, 13, 8, 0.0)
    assert 3 * gradient_rows_of_the_card(model, 13, 8) <= rows_of_the_card(model, 13, 8)


def test_a_large_card_takes_all_cells_in_one_pass_and_a_small_one_in_several(monkeypatch):
    model, replay, sizes = held("llama"), sweep.replay, []

    def counted(model, base, entries, *rest):
        sizes.append(sum(map(len, entries.values())))
        return replay(model, base, entries, *rest)

    monkeypatch.setattr(sweep, "replay", counted)
    cells, rows, own = every_head(model), Rows.everywhere(3, 13), engine(model)
    monkeypatch.setattr(sweep, "ROWS", 1)
    one_by_one = own.patched(cells, rows, lambda logits: logits)
    assert sizes == [1] * 12
    of_cell = 3 * 8 * bytes_per_row(model, 13, 8, 2 / 8)
    for free, expected in [(80 * 2**30, [12]), (int(5.5 * of_cell / room.SHARE), [4, 4, 4]), (0, [1] * 12)]:
        on_cards(monkeypatch, [free])
        sizes.clear()
        together = own.patched(cells, rows, lambda logits: logits)
        assert sizes == expected
        torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-5)
