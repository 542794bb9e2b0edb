"""Images of other libraries through DLPack, with NumPy as the one that decoded: no copy, and the same bits."""

import numpy as np
import pytest
import torch
from cases import each_backend, net_of


class Decoded:
    """A decoder's image: of any class, with DLPack's two methods alone."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __dlpack__(self, **options):
        return self.pixels.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.pixels.__dlpack_device__()


@pytest.fixture
def decoded(seed):
    """(H, W, 3), uint8: whole, and a part of a larger one, whose rows do not touch."""
    random = np.random.default_rng(seed)
    whole, larger = (random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((13, 9), (12, 20)))
    return [whole, larger[2:9, 3:14]]


def test_no_copy(decoded):
    for pixels in decoded:
        image = torch.from_dlpack(Decoded(pixels)).permute(2, 0, 1)
        assert image.data_ptr() == pixels.ctypes.data
        assert image.stride() == tuple(pixels.strides[axis] for axis in (2, 0, 1))
        pixels[4, 5] = [1, 2, 3]
        assert image[:, 4, 5].tolist() == [1, 2, 3]


@each_backend
@pytest.mark.parametrize("letterbox", [False, True], ids=["stretched", "letterboxed"])
def test_the_same_bits_as_of_a_copy(letterbox, backend, decoded, device):
    net = net_of(backend, taps=4, prior="antialias").to(device)
    shared = [torch.from_dlpack(Decoded(pixels)).to(device).permute(2, 0, 1) for pixels in decoded]
    copied = [torch.tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(device) for pixels in decoded]
    assert [image.is_contiguous() for image in (*shared, *copied)] == [False, False, True, True]
    got, expected = (net(images, letterbox=letterbox) for images in (shared, copied))
    got, expected = (y.images if letterbox else y for y in (got, expected))
    if backend == "triton":
        assert torch.equal(got, expected)
    else:  # PyTorch convolves other memory formats in another order
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
