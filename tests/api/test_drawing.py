"""What the pictures of the command line show."""

import re

import numpy as np
import torch

from tritonds import DownsizeNet, drawing, methods


def test_largest_finds_where_methods_differ_and_then_elsewhere():
    spread = torch.zeros(100, 120)
    spread[60:70, 30:40] = 2
    spread[62:72, 42:52] = 1.5  # beside it
    spread[5:15, 90:100] = 1
    first, second = drawing.largest(spread, 10, 2)
    assert first == (60, 30, 10, 10)
    assert second == (5, 90, 10, 10)


def test_largest_of_a_small_image_is_all_of_it():
    assert drawing.largest(torch.rand(3, 7), 10, 2) == [(0, 0, 3, 7)]


def test_methods_of_one_result_share_a_panel():
    image = torch.rand(1, 3, 30, 40)
    results = {name: methods.get(name)(image, (16, 21)) for name in ("bilinear", "bilinear-aa", *methods.UNTRAINED)}
    assert drawing.distinct(results) == {"bilinear": ["bilinear"], "bilinear-aa": ["bilinear-aa", *methods.UNTRAINED]}


def test_a_magnified_pixel_is_a_square_of_whole_pixels():
    """Every crop holds only the result's colours, each in squares of six."""
    results = {"area": torch.rand(1, 3, 32, 32), "bilinear": torch.rand(1, 3, 32, 32)}
    canvas = drawing.draw_comparison(torch.rand(1, 3, 64, 64), results, {name: name for name in results}, {})
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    agg = FigureCanvasAgg(canvas.figure)
    agg.draw()
    pixels = np.asarray(agg.buffer_rgba())[:, :, :3]
    for column, result in enumerate(results.values(), start=1):
        left = drawing.OVERVIEW + 36 + column * (drawing.PANEL + drawing.GAP)
        panel = pixels[drawing.TOP : drawing.TOP + drawing.PANEL, left : left + drawing.PANEL]
        magnified = np.kron(drawing.to_pixels(result), np.ones((6, 6, 1), dtype=np.uint8))
        inside = slice(6, -6)  # the frame lies on the edge
        assert np.array_equal(panel[inside, inside], magnified[inside, inside])


def test_negative_coefficients_are_told_from_zeros():
    """A layer that sharpens: its tiles say how far below zero they go, and show it in another colour than zero's."""
    net = methods.UNTRAINED["distance-only"]()
    image = torch.rand(1, 3, 30, 40)
    results = {name: methods.get(name)(image, (12, 16)) for name in ("area", "bilinear")}
    sharpening = DownsizeNet(taps=8, prior="bicubic", texture_channels=0, mean=None, std=None)
    own, convex = (layer.coefficients(image, (12, 16)).detach() for layer in (sharpening, net))
    prior = torch.full_like(own, 1 / 64)
    for coefficients, start in ((own, prior), (convex, torch.zeros_like(convex))):
        canvas = drawing.draw_comparison(image, results, {n: n for n in results} | {"x": "x"}, {"x": (coefficients, start)})
        (shown,) = (x for axes in canvas.figure.axes for x in axes.get_images() if np.ma.is_masked(x.get_array()))
        lowest, zero = (shown.to_rgba(np.array([value])) for value in (float(coefficients.min()), 0.0))
        texts = [text.get_text() for text in canvas.figure.texts]
        assert any(re.fullmatch(r"-0\.\d+ to 0\.\d+", text) for text in texts) == bool((coefficients < 0).any())
        assert np.array_equal(lowest, zero) == (float(coefficients.min()) == 0)
