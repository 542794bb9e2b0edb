"""Every downsizer is what its name says; kernels that sharpen by a fixed amount, against Pillow, SciPy and PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

import tritonds
from bench.accuracy import downsizers
from tritonds import DownsizeNet

SIZES = [(40, 33), (23, 64), (75, 30), (100, 80), (1, 1)]


@pytest.mark.parametrize("name", [name for name in downsizers.NAMES if name not in downsizers.SHARPENING])
def test_methods_are_what_they_are_called(name):
    images = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8)
    method = downsizers.build(name)
    result = method(images, (13, 12))
    assert result.shape == (2, 3, 13, 12)
    image = images.float() / 255
    if name in downsizers.FIXED:
        mode, _, antialias = name.partition("-")
        if name == "nearest":
            rows, columns = ((torch.arange(n) + 0.5) * 24 / n for n in (13, 12))
            expected = image[:, :, rows.long()][..., columns.long()]
        elif name == "area":
            expected = tritonds.reference.area_pool2d(image, (13, 12))
        else:
            expected = F.interpolate(image, (13, 12), mode=mode, antialias=antialias == "aa")
        torch.testing.assert_close(result, expected)
        return
    assert method.taps == int(name.partition("-k")[2][:1])
    assert (method.texture_channels == 0) == ("distance-only" in name)
    assert (method.distance_channels == 0) == ("texture-only" in name)
    mode = name.rpartition("-k")[2].partition("-")[2] or "bilinear"
    assert method.prior == {"bilinear": "bilinear" if method.taps == 2 else "antialias"}.get(mode, mode)
    if mode == "lanczos":  # whose kernel eight taps hold up to a scale of 4/3
        torch.testing.assert_close(method(images, (19, 18)), fixed("lanczos", image, (19, 18)), atol=1e-5, rtol=1e-5)
        return
    expected = F.interpolate(image, (13, 12), mode=mode, antialias=method.prior != "bilinear")
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def fixed(name, image, size):
    return downsizers.INTERPOLATIONS[name](image, size)


def of_pillow(image, size, kernel):
    planes = [Image.fromarray(plane.numpy()).resize(size[::-1], kernel) for plane in image[0]]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))[None]


@pytest.mark.parametrize("size", SIZES)
def test_lanczos_is_pillows(size):
    image = torch.rand(1, 3, 75, 64)
    torch.testing.assert_close(
        fixed("lanczos", image, size), of_pillow(image, size, Image.Resampling.LANCZOS), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("strength", [2, 3])
@pytest.mark.parametrize(("kernel", "pillows"), [("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)])
@pytest.mark.parametrize("size", SIZES)
def test_sharpening_adds_to_the_difference_of_two_kernels(size, kernel, pillows, strength):
    """Of the signed one and antialiased bilinear. Pillow's bicubic kernel is PyTorch's."""
    image = torch.rand(2, 3, 75, 64)
    convex = F.interpolate(image, size, mode="bilinear", antialias=True)
    signed = torch.cat([of_pillow(one[None], size, pillows) for one in image])
    expected = convex + strength * (signed - convex)
    torch.testing.assert_close(fixed(f"{kernel}-g{strength}", image, size), expected, rtol=0, atol=1e-5)


def test_a_layer_of_that_strength_equals_it():
    """Where eight taps reach as far as the kernel."""
    net = DownsizeNet((40, 36), taps=8, prior="bicubic")
    with torch.no_grad():
        net.out.bias[-1] = 3
    image = torch.rand(1, 3, 75, 64)
    torch.testing.assert_close(net(image), fixed("bicubic-g3", image, (40, 36)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["area", "lanczos"])
def test_unsharp_masks_add_half_of_what_a_blur_takes(name):
    image = torch.rand(1, 3, 75, 64)
    small = fixed(name, image, (40, 33))
    blurred = ndimage.gaussian_filter(small.numpy(), 1, axes=(2, 3), mode="nearest", truncate=3)
    torch.testing.assert_close(
        fixed(f"{name}-unsharp", image, (40, 33)), 1.5 * small - 0.5 * torch.from_numpy(blurred), rtol=0, atol=1e-5
    )
