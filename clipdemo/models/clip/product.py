"""The matrix product of linear layers: oneDNN's on packed weights, where that beats PyTorch's own product.

PyTorch multiplies float32 matrices through MKL, which leaves half of the arithmetic of some processors
unused, such as AMD's with AVX-512. PyTorch carries oneDNN, too, behind operators that it keeps private: only
this module knows them. They are for inference only.
"""

from __future__ import annotations

import functools
import time

import torch
from torch import Tensor, nn

ROWS, WIDTH = 400, 768  # of the trial: 8 images of 50 tokens in an attention layer of a ViT-B/32
ROUNDS = 5  # about 60 ms together on an AMD EPYC with AVX2
MARGIN = 1.25  # the gain is about 2 where there is one, and rounds differ by a few per cent


class PackedLinear(nn.Module):
    """A linear layer for inference; its weight is in oneDNN's own layout.

    Args:
        linear: float32, on the CPU.

    Attributes:
        weight: (out_features, in_features); an opaque tensor, not a parameter.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # The layout is the same for any number of rows beyond one. `to_mkldnn` alone would keep the plain
        # one, which is as quick for 800 rows, but 10 to 20 % slower for one image or one caption.
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.bias = linear.bias

    def forward(self, rows: Tensor) -> Tensor:
        """Return (..., out_features)."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return out

    def __reduce__(self) -> tuple[type[PackedLinear], tuple[nn.Linear]]:
        """Copy and pickle as an ordinary layer; PyTorch can do neither with a packed weight."""
        return PackedLinear, (self.unpacked(),)

    def unpacked(self) -> nn.Linear:
        """Return the ordinary layer that this one was made from, bit for bit."""
        weight = self.weight.to_dense()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=self.bias is not None, device="meta")
        linear.weight, linear.bias = nn.Parameter(weight), self.bias
        return linear


@functools.cache
def packed_is_quicker() -> bool:
    """Whether a packed layer beats an ordinary one clearly on this processor; measured once per process.

    The processor time of one thread decides: it depends little on what else the machine does.
    """
    if not is_available():
        return False
    plain, rows = nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)
    packed = PackedLinear(plain)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            if not torch.allclose(plain(rows), packed(rows), atol=1e-3):
                return False
            rounds = [(_seconds(plain, rows), _seconds(packed, rows)) for _ in range(ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    fastest_plain, fastest_packed = (min(times) for times in zip(*rounds, strict=True))
    return bool(fastest_plain > MARGIN * fastest_packed)


def is_available() -> bool:
    """Whether this build of PyTorch has oneDNN and the operators."""
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    built_in: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built_in and all(hasattr(torch.ops.mkldnn, name) for name in operators)


def _seconds(layer: nn.Module, rows: Tensor) -> float:
    started = time.thread_time()
    layer(rows)
    return time.thread_time() - started
