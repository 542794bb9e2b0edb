"""Methods by name, against the functions and networks that they stand for."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import tritonds
from tritonds import methods, pretrained


class TestMethods:
    """Against the functions that they stand for, from their own libraries."""

    image = torch.rand(1, 3, 30, 40, dtype=torch.float64)

    def test_bicubic_is_pillows(self):
        channel = Image.fromarray(self.image[0, 0].float().numpy())
        expected = np.asarray(channel.resize((17, 13), Image.Resampling.BICUBIC))
        got = methods.get("bicubic-aa")(self.image, (13, 17))[0, 0].numpy()
        np.testing.assert_allclose(got, expected, atol=1e-5)

    def test_bilinear_aa_is_pillows(self):
        channel = Image.fromarray(self.image[0, 0].float().numpy())
        expected = np.asarray(channel.resize((17, 13), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(methods.get("bilinear-aa")(self.image, (13, 17))[0, 0].numpy(), expected, atol=1e-5)

    def test_bilinear_and_area_are_opencvs(self):
        pixels = self.image[0, 0].numpy()
        bilinear = cv2.resize(pixels, (17, 13), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(methods.get("bilinear")(self.image, (13, 17))[0, 0].numpy(), bilinear, atol=1e-5)
        area = cv2.resize(pixels, (17, 13), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(methods.get("area")(self.image, (13, 17))[0, 0].numpy(), area, atol=1e-6)

    @pytest.mark.parametrize("name", methods.UNTRAINED)
    def test_untrained_networks_are_antialiased_bilinear(self, name):
        image = self.image.float()
        expected = F.interpolate(image, (16, 21), mode="bilinear", antialias=True)
        torch.testing.assert_close(methods.get(name)(image, (16, 21)), expected)

    def test_unknown_names_are_refused(self):
        with pytest.raises(ValueError, match="method: expected one of"):
            methods.get("lanczos")


@pytest.mark.parametrize(("method", "option"), [("texture-only", "distance_channels"), ("distance-only", "texture_channels")])
def test_ablations_take_weights(method, option, tmp_path):
    net = tritonds.DownsizeNet(taps=3, **{option: 0})
    torch.nn.init.normal_(net.out.weight)
    net.save_pretrained(tmp_path)
    image = torch.rand(1, 3, 12, 10)
    torch.testing.assert_close(methods.get(method, tmp_path)(image, (5, 6)), net(image, (5, 6)).detach())


def test_shipped_weights_are_used():
    assert tuple(methods.SHIPPED) == pretrained.SHIPPED
    image = torch.rand(1, 3, 12, 10)
    for name in methods.SHIPPED:
        expected = tritonds.DownsizeNet.from_pretrained(name)(image, (5, 6)).detach()
        torch.testing.assert_close(methods.get(name)(image, (5, 6)), expected)
        torch.testing.assert_close(methods.get("downsizenet", name)(image, (5, 6)), expected)
