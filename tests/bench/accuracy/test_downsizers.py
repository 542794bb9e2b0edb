"""Every downsizer is what its name says."""

import pytest
import torch
import torch.nn.functional as F

import tritonds
from bench.accuracy import downsizers


@pytest.mark.parametrize("name", downsizers.NAMES)
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
    assert (method.prior is None) == ("plain" in name)
    assert (method.texture_channels == 0) == ("distance-only" in name)
    assert (method.distance_channels == 0) == ("texture-only" in name)
    assert method.hidden_layers == (int(name[-1]) - 1 if "layers" in name else 1)
    assert method.texture_layers == (int(name[-1]) if name[:-1].endswith("-texture") else 1)
    assert method.hidden_channels == (32 if "wide" in name else 16)
    if method.prior is not None:
        mode = "bicubic" if method.prior == "bicubic" else "bilinear"
        expected = F.interpolate(image, (13, 12), mode=mode, antialias=method.prior != "bilinear")
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
