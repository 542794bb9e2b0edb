"""Networks strip by strip, against the network itself."""

import pytest
import torch

import tritonds
from tritonds import methods, strips


@pytest.mark.parametrize(
    ("image_size", "size"),
    [((97, 70), (31, 24)), ((64, 30), (32, 10)), ((3, 5), (2, 4)), ((33, 9), (90, 20)), ((130, 8), (1, 1)), ((1, 40), (3, 7))],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("normalised", [False, True])
def test_strips_give_the_networks_result(image_size, size, dtype, normalised, tmp_path):
    """Also where it normalises, of which its pictures show nothing."""
    options = dict(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]) if normalised else {}
    net = tritonds.DownsizeNet(taps=4, prior="antialias", **options)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(tmp_path)
    net = methods.network("downsizenet", tmp_path)
    image = torch.rand(1, 3, *image_size)
    if dtype == torch.uint8:
        image = (image * 255).round().to(torch.uint8)
    assert strips.can_downsize(net)
    torch.testing.assert_close(strips.downsize(net, image, size), net(image, size), atol=2e-5, rtol=0)


def test_what_is_not_one_convolution_has_no_strips():
    assert not strips.can_downsize(tritonds.DownsizeNet(texture_layers=2))
    assert not strips.can_downsize(tritonds.DownsizeNet(texture_channels=0))
