"""Sums over programs of partial gradients."""

import pytest
import torch

pytestmark = pytest.mark.compiled


def partial(device, rows, columns, dtype):
    """The last row's end is that of the memory, behind which the emulator allows no load."""
    return torch.randn(rows, columns, device=device, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "output_dtype"), [("float32", "float32"), ("float32", "float16"), ("float64", "float64")])
@pytest.mark.parametrize(
    "shapes", [((1, 1), (3, 17)), ((600, 9), (257, 8)), ((2, 30), (300, 3)), ((0, 5), (0, 9)), (None, (70, 21))]
)
def test_sums(shapes, dtype, output_dtype, device):
    from tritonds.kernels import sums

    first, second = (None if shape is None else partial(device, *shape, getattr(torch, dtype)) for shape in shapes)
    parts = [x for x in (first, second) if x is not None]
    output = torch.empty(sum(x.shape[1] for x in parts), device=device, dtype=getattr(torch, output_dtype))
    sums.sum_rows(first, second, output)
    expected = torch.cat([x.double().sum(0) for x in parts])
    scale = torch.cat([x.double().abs().sum(0) for x in parts]).clamp(min=1e-3)
    assert ((output.double() - expected).abs() <= 4 * torch.finfo(output.dtype).eps * scale).all()
    again = torch.empty_like(output)
    sums.sum_rows(first, second, again)
    assert torch.equal(output, again)
