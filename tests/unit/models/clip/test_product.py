"""A packed layer computes what the ordinary one does, and can become it again."""

import copy
import pickle

import pytest
import torch
from torch import nn

from clipdemo.models.clip import product
from clipdemo.models.clip.product import PackedLinear, packed_is_quicker


@pytest.fixture(autouse=True)
def with_onednn():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of PyTorch lacks oneDNN, so clipdemo keeps the ordinary layers")


@pytest.fixture
def no_decision_yet():
    packed_is_quicker.cache_clear()
    yield
    packed_is_quicker.cache_clear()


def test_this_torch_has_the_private_operators():
    assert product.is_available()
    schema = torch.ops.mkldnn._linear_pointwise.default._schema
    assert [argument.name for argument in schema.arguments] == ["X", "W", "B", "attr", "scalars", "algorithm"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("wide", "high"), [(32, 64), (33, 65), (768, 512), (5, 3)])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 5), (3, 16, 4)])
def test_a_packed_layer_computes_the_same(bias, wide, high, shape):
    torch.manual_seed(0)
    linear = nn.Linear(wide, high, bias=bias)
    rows = torch.randn(*shape, wide)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(rows), linear(rows), rtol=1e-4, atol=1e-5)


def test_rows_that_are_not_contiguous_are_read_right():
    linear = nn.Linear(32, 8)
    first = torch.randn(4, 6, 32)[:, 0]
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(first), linear(first), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_unpacking_returns_the_weights_bit_for_bit(bias):
    linear = nn.Linear(33, 65, bias=bias)
    back = PackedLinear(linear).unpacked()
    assert torch.equal(back.weight, linear.weight)
    assert back.weight.requires_grad
    assert (back.bias is None) is not bias


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_a_weight_of_its_own(copied):
    linear = nn.Linear(33, 65)
    packed = PackedLinear(linear)
    other = copied(packed)
    assert other.weight is not packed.weight
    assert torch.equal(other.unpacked().weight, linear.weight)


def test_the_decision_is_made_once(no_decision_yet, monkeypatch):
    threads, first = torch.get_num_threads(), packed_is_quicker()
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(product, "is_available", lambda: pytest.fail("decided again"))
    assert packed_is_quicker() is first


@pytest.mark.parametrize(
    ("plain", "packed", "quicker"), [(1.3, 1.0, True), (1.2, 1.0, False), (0.5, 1.0, False)]
)
def test_only_a_clear_gain_counts(plain, packed, quicker, no_decision_yet, monkeypatch):
    def seconds(layer, rows):
        return packed if isinstance(layer, PackedLinear) else plain

    monkeypatch.setattr(product, "_seconds", seconds)
    assert packed_is_quicker() is quicker


def test_one_slow_round_does_not_decide(no_decision_yet, monkeypatch):
    times = iter([9.0, 1.0, *[1.0] * (2 * product.ROUNDS)])
    monkeypatch.setattr(product, "_seconds", lambda layer, rows: next(times))
    assert not packed_is_quicker()


def test_without_the_operators_the_ordinary_layers_stay(no_decision_yet, monkeypatch):
    monkeypatch.setattr(product, "is_available", lambda: False)
    assert not packed_is_quicker()


def test_an_operator_that_computes_something_else_is_not_used(no_decision_yet, monkeypatch):
    monkeypatch.setattr(PackedLinear, "forward", lambda self, rows: torch.zeros(len(rows), product.WIDTH))
    monkeypatch.setattr(
        product, "_seconds", lambda layer, rows: 1.0 if isinstance(layer, PackedLinear) else 9.0
    )
    assert not packed_is_quicker()
