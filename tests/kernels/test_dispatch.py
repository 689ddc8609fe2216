"""Which form of an operation runs, and what is said about it."""

import pytest
import torch

from headlens.kernels import dispatch
from headlens.kernels.dispatch import choice, forced, on_device
from headlens.kernels.operations import grouped_attention
from headlens.kernels.recalibration import Change, Groups
from headlens.kernels.seen import Seen

HERE = torch.zeros(1, 2, 5, 32)


@pytest.fixture
def interpreting(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def test_the_cpu_has_plain_torch():
    assert choice(HERE) == (False, "tensors on the CPU") == on_device(torch.device("cpu"))


def test_either_can_be_forced(interpreting):
    with forced("kernel"):
        assert choice(HERE, None, HERE) == (True, "the kernel is forced")
        with forced("twin"):
            assert choice(HERE) == (False, "plain torch is forced")
        assert choice(HERE).kernel
    assert not choice(HERE).kernel


def test_the_environment_forces_too(interpreting, monkeypatch):
    monkeypatch.setenv("HEADLENS_KERNELS", "kernel")
    assert choice(HERE).kernel
    with forced("auto"):
        assert not choice(HERE).kernel
    monkeypatch.setenv("HEADLENS_KERNELS", "kernels")
    with pytest.raises(ValueError, match="HEADLENS_KERNELS was given 'kernels'; the choices are auto, twin, kernel"):
        choice(HERE)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ((HERE.double(),), "float64 numbers"),
        ((HERE, HERE.bfloat16()), "bfloat16 and float32 numbers"),
        ((HERE, torch.zeros(1, 2, 5, 264)), "heads wider than 256"),
        ((HERE.to("meta"),), "tensors on meta"),
        ((HERE, HERE.to("meta")), "several devices"),
    ],
)
def test_what_no_kernel_can_do(interpreting, tensors, why):
    assert why in choice(*tensors).why and not choice(*tensors).kernel
    with forced("kernel"), pytest.raises(ValueError, match=rf"forced and cannot run: .*{why}"):
        choice(*tensors)


def test_a_kernel_on_the_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with forced("kernel"), pytest.raises(ValueError, match="tensors on the CPU"):
        choice(HERE)


def test_without_triton_there_is_plain_torch(monkeypatch):
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    assert choice(HERE) == (False, "triton is not installed")


def test_gradients_are_plain_torchs(interpreting):
    wanting = HERE.clone().requires_grad_()
    with forced("kernel"):
        assert not choice(HERE, wanting).kernel
        with torch.no_grad():
            assert choice(HERE, wanting).kernel


def test_a_gpu_has_the_kernels_if_it_is_new_enough(monkeypatch):
    monkeypatch.setattr(dispatch, "_has_triton", lambda: True)
    monkeypatch.setattr(dispatch, "_card", lambda device: "card")
    monkeypatch.setattr(torch.Tensor, "device", property(lambda tensor: torch.device("cuda", 0)))
    for capability, said in (((9, 0), (True, "tensors on card")), ((7, 5), (False, "card has compute capability 7.5"))):
        monkeypatch.setattr(dispatch, "_capability", lambda device, capability=capability: capability)
        kernel, why = choice(HERE)
        assert (kernel, why[: len(said[1])]) == said


def test_an_operation_runs_as_it_was_chosen(interpreting):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 6, 32, generator=draw) for heads in (4, 2, 2))
    groups = Groups(torch.tensor([0, 1, 1, 0, 1, 0], dtype=torch.uint8)[None, None, None], 2)
    change = Change(multipliers=torch.tensor([1.0, 0.3])[None, None, None])
    given = (query, key, value, Seen(), 0.2, groups, change)
    with forced("twin"):
        twin = grouped_attention(*given)
    with forced("kernel"):
        kernel = grouped_attention(*given)
    torch.testing.assert_close(kernel.z, twin.z, rtol=0, atol=2e-6)
    assert not torch.equal(kernel.z, twin.z)


def test_gradients_of_a_forced_kernel_are_the_twins(interpreting):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 4, 32, generator=draw, dtype=torch.float32) for _ in range(3))
    groups = Groups(torch.tensor([0, 1, 1, 0], dtype=torch.uint8)[None, None, None], 2)
    query.requires_grad_()
    change = Change(multipliers=torch.tensor([1.0, 0.3])[None, None, None])
    with forced("kernel"):
        z = grouped_attention(query, key, value, Seen(), 0.2, groups, change).z
    z.square().sum().backward()
    moved = query.detach().clone()
    moved[0, 1, 3, 5] += 1e-2
    after = grouped_attention(moved, key, value, Seen(), 0.2, groups, change).z.square().sum()
    assert float(after - z.detach().square().sum()) / 1e-2 == pytest.approx(
        float(query.grad[0, 1, 3, 5]), rel=0.05, abs=1e-3
    )
