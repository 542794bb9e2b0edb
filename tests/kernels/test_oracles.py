"""Both backends against other people's code: PyTorch's interpolation, scikit-image, OpenCV."""

import math

import cv2
import numpy as np
import oracle
import pytest
import skimage.transform
import torch
import torch.nn.functional as F
from cases import each_backend, error

import tritonds

SIZES = [((13, 17), (5, 7)), ((9, 8), (3, 4)), ((5, 4), (11, 9)), ((12, 3), (5, 8)), ((7, 7), (7, 7)), ((1, 6), (1, 4))]


def zeroed(taps, device):
    """Weights whose logits are zero whatever comes in."""
    return tritonds.CoefficientWeights(
        torch.randn(3, 2 * taps, dtype=torch.float64, device=device),
        torch.randn(3, dtype=torch.float64, device=device),
        (),
        (),
        torch.zeros(taps**2, 5, dtype=torch.float64, device=device),
        torch.zeros(taps**2, dtype=torch.float64, device=device),
    )


@each_backend
@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_bilinear_prior_is_bilinear(size_in, size_out, backend, device):
    image = torch.randn(2, 3, *size_in, dtype=torch.float64, device=device)
    texture = torch.randn(2, 2, *size_in, dtype=torch.float64, device=device)
    y = tritonds.downsize(image, texture, zeroed(2, device), size_out, prior="bilinear", backend=backend)
    assert error(y, F.interpolate(image, size_out, mode="bilinear", align_corners=False)) < 1e-12


@each_backend
@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_antialias_prior_is_antialiased_bilinear(size_in, size_out, backend, device):
    scale = max(a / b for a, b in zip(size_in, size_out, strict=True))
    taps = max(2, 2 * math.ceil(scale))
    image = torch.randn(2, 3, *size_in, dtype=torch.float64, device=device)
    texture = torch.randn(2, 2, *size_in, dtype=torch.float64, device=device)
    y = tritonds.downsize(image, texture, zeroed(taps, device), size_out, taps=taps, prior="antialias", backend=backend)
    assert error(y, F.interpolate(image, size_out, mode="bilinear", antialias=True, align_corners=False)) < 1e-12


@pytest.mark.parametrize("size_out", [(179, 179), (230, 100), (513, 600)])
def test_bilinear_prior_at_the_posters_sizes(size_out, device):
    image = torch.randn(1, 1, 513, 513, dtype=torch.float64, device=device)
    texture = torch.zeros(1, 2, 1, 1, dtype=torch.float64, device=device)
    y = tritonds.downsize(image, texture, zeroed(2, device), size_out, prior="bilinear", backend="torch")
    assert error(y, F.interpolate(image, size_out, mode="bilinear", align_corners=False)) < 1e-12


@each_backend
@pytest.mark.parametrize(("size_in", "size_out"), [*SIZES, ((29, 31), (4, 3))])
def test_area_pooling_is_scikit_images_local_mean(size_in, size_out, backend, device):
    x = torch.rand(2, 3, *size_in, dtype=torch.float64, device=device)
    expected = skimage.transform.resize_local_mean(x.movedim(1, -1).cpu().numpy(), (2, *size_out, 3), grid_mode=True)
    y = tritonds.area_pool2d(x, size_out, backend=backend)
    assert error(y, torch.from_numpy(expected).movedim(-1, 1).to(device)) < 1e-12


@each_backend
@pytest.mark.parametrize(("size_in", "size_out"), [((13, 17), (5, 7)), ((29, 31), (4, 3)), ((12, 18), (4, 6))])
def test_area_pooling_is_opencvs_inter_area(size_in, size_out, backend, device):
    x = torch.rand(1, 1, *size_in, dtype=torch.float64, device=device)
    expected = cv2.resize(x[0, 0].cpu().numpy(), size_out[::-1], interpolation=cv2.INTER_AREA)
    y = tritonds.area_pool2d(x, size_out, backend=backend)
    np.testing.assert_allclose(y[0, 0].cpu().numpy(), expected, rtol=1e-6)


def test_area_pooling_of_a_large_image(device):
    x = torch.rand(1, 2, 513, 768, dtype=torch.float64, device=device)
    y = tritonds.area_pool2d(x, (179, 230), backend="torch")
    assert error(y, oracle.area_pool2d(x, (179, 230))) < 1e-12
