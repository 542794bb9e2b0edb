"""``tritonds resize``: methods, weights, and what it refuses."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command import limited, oriented, pixels_of, run
from PIL import Image

import tritonds
from tritonds import methods


@pytest.mark.parametrize("method", methods.NAMES)
def test_resize_by_every_method(method, photos, tmp_path):
    result = run("resize", photos, "--size", "12x8", "--out", tmp_path / "out", "--method", method)
    assert result.exit_code == 0, result.output
    names = ["a.png", "below/grey.png", "turned.png"]
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")) == names
    assert all(pixels_of(tmp_path / "out" / name).shape == (8, 12, 3) for name in names)


def test_resize_gives_the_methods_pixels(photos, tmp_path):
    run("resize", photos / "a.png", "--size", "12x8", "--out", tmp_path, "--method", "bilinear-aa")
    image = torch.from_numpy(pixels_of(photos / "a.png")).permute(2, 0, 1)[None].double() / 255
    expected = F.interpolate(image, (8, 12), mode="bilinear", antialias=True)[0].permute(1, 2, 0) * 255
    assert np.abs(pixels_of(tmp_path / "a.png") - expected.numpy()).max() < 0.51


def test_resize_honours_exif_orientation(tmp_path):
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, :10] = 255  # left half white: top half, once turned
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=oriented(6))
    assert run("resize", tmp_path / "turned.png", "--size", "2x4", "--out", tmp_path / "out").exit_code == 0
    upright = pixels_of(tmp_path / "out" / "turned.png")[:, :, 0]
    assert (upright[0] > 250).all()
    assert (upright[3] < 5).all()


def test_weights_are_used(photos, tmp_path):
    net = tritonds.DownsizeNet(taps=3, prior="bilinear", hidden_layers=2)
    torch.nn.init.normal_(net.out.weight)
    net.save_pretrained(tmp_path / "net")
    run("resize", photos / "a.png", "--size", "12x8", "--out", tmp_path, "--weights", tmp_path / "net")
    image = torch.from_numpy(pixels_of(photos / "a.png")).permute(2, 0, 1)[None].float() / 255
    expected = net(image, (8, 12))[0].permute(1, 2, 0).detach().numpy() * 255
    assert np.abs(pixels_of(tmp_path / "a.png") - expected).max() < 0.51
    wrong = run("resize", photos / "a.png", "--size", "5x5", "--out", tmp_path, "--weights", tmp_path / "net",
                "--method", "texture-only")  # fmt: skip
    assert wrong.exit_code == 2
    assert "another kind of network" in wrong.output
    tritonds.DownsizeNet(in_channels=1).save_pretrained(tmp_path / "grey")
    wrong = run("resize", photos / "a.png", "--size", "5x5", "--out", tmp_path, "--weights", tmp_path / "grey")
    assert "for images of 1 channels" in wrong.output


def test_results_of_networks_that_normalise_are_pictures(photos, tmp_path):
    """Also of those in half precision: untrained, they are antialiased bilinear."""
    options = dict(taps=4, prior="antialias", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    tritonds.DownsizeNet(**options).bfloat16().save_pretrained(tmp_path)
    for name, arguments in [("plain", ["--method", "bilinear-aa"]), ("normalised", ["--weights", tmp_path])]:
        result = run("resize", photos / "a.png", "--size", "15x10", "--out", tmp_path / name, *arguments)
        assert result.exit_code == 0, result.output
    difference = pixels_of(tmp_path / "plain" / "a.png").astype(int) - pixels_of(tmp_path / "normalised" / "a.png")
    assert np.abs(difference).max() <= 1
    assert run("batch", photos / "a.png", "--out", tmp_path / "b.png", "--weights", tmp_path).exit_code == 0


def test_results_that_are_no_numbers_are_refused(photos, tmp_path):
    net = tritonds.DownsizeNet(taps=2)
    torch.nn.init.constant_(net.out.weight, 1e38)
    torch.nn.init.constant_(net.out.bias, 1e38)
    torch.nn.init.constant_(net.hidden[0].weight, 1e38)
    net.save_pretrained(tmp_path / "net")
    for command in ("resize", "batch"):
        out = tmp_path / "out" if command == "resize" else tmp_path / "out.png"
        result = run(command, photos / "a.png", "--size", "5x4", "--out", out, "--weights", tmp_path / "net")
        assert result.exit_code == 1, result.output
        assert "the result is not finite" in result.output
        assert not list(tmp_path.rglob("out*.png"))


def test_resize_of_an_empty_folder_says_so(tmp_path):
    result = run("resize", tmp_path, "--size", "5x4", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "no images found" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "5"), "expected WIDTHxHEIGHT"),
        (("--size", "0x5"), "expected WIDTHxHEIGHT"),
        (("--size", "99999999999x5"), "expected WIDTHxHEIGHT"),
        (("--size", "5x5", "--method", "nearest"), "method: expected one of"),
        (("--size", "5x5", "--method", "area", "--weights", "natural-k2"), "learns nothing"),
        (("--size", "5x5", "--method", "natural-k4", "--weights", "natural-k2"), "with others the method is 'downsizenet'"),
        (("--size", "5x5", "--method", "downsizenet"), "needs some"),
        (("--size", "5x5", "--weights", "missing.safetensors"), "missing.safetensors"),
        (("--size", "5x5", "--weights", "natural-k3"), "expected one of ('natural-k2', 'natural-k4', 'natural-k8'"),
    ],
)
def test_resize_refuses(arguments, message, photos, tmp_path):
    result = run("resize", photos, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def assert_all_but_the_huge_image_are_written(result, photos):
    assert result.exit_code == 1, result.output
    assert f"failed: {photos / 'huge.png'}: " in result.output
    assert "3 written" in result.output
    assert "Traceback" not in result.output
    assert "stack" not in result.output


def test_resize_goes_on_past_an_image_too_large_for_memory(photos, tmp_path):
    Image.new("1", (12_000, 12_000)).save(photos / "huge.png")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, used + 2**29):
        result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out", "--method", "area")
    assert_all_but_the_huge_image_are_written(result, photos)


def test_resize_goes_on_past_an_image_too_large_for_a_gpu(photos, tmp_path, monkeypatch):
    def method(image, size):
        if image.shape[2] > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nAnd a stack.")
        return methods.INTERPOLATIONS["area"](image, size)

    monkeypatch.setattr(methods, "get", lambda *_: method)
    Image.new("1", (1_200, 1_200)).save(photos / "huge.png")
    result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out", "--method", "area")
    assert_all_but_the_huge_image_are_written(result, photos)
