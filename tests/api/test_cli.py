"""The command line, run as a user runs it, and the methods behind it."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import tritonds
from tritonds import methods, pretrained
from tritonds.cli import app


def pixels_of(path):
    with Image.open(path) as file:
        return np.array(file)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def photos(tmp_path):
    """A folder with a photograph, one in a folder below it, one that lies on its side, and a file that is no image."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:, :, 0]).save(folder / "below" / "grey.PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=exif)
    (folder / "notes.txt").write_text("not looked at")
    return folder


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
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert run("resize", tmp_path / "turned.png", "--size", "2x4", "--out", tmp_path / "out").exit_code == 0
    upright = pixels_of(tmp_path / "out" / "turned.png")[:, :, 0]
    assert (upright[0] > 250).all()
    assert (upright[3] < 5).all()


def test_resize_goes_on_past_files_that_cannot_be_read(photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no image")
    data = (photos / "a.png").read_bytes()
    (photos / "cut.png").write_bytes(data[: len(data) // 2])
    result = run("resize", photos, photos / "missing.png", "--size", "5x4", "--out", tmp_path / "out")
    assert result.exit_code == 1
    for name in ("broken.png", "cut.png", "missing.png"):
        assert f"{photos / name}:" in result.output
    assert "3 written" in result.output
    assert not (tmp_path / "out" / "broken.png").exists()


def test_resize_does_not_write_one_result_over_another(photos, tmp_path):
    Image.fromarray(pixels_of(photos / "a.png")).save(photos / "a.bmp")
    result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "is an input, or already the result of another" in result.output


def test_resize_does_not_write_over_its_inputs(photos, tmp_path):
    before = pixels_of(photos / "a.png")
    result = run("resize", photos, "--size", "5x4", "--out", photos)
    assert result.exit_code == 1
    assert f"{photos / 'a.png'} is an input" in result.output
    assert np.array_equal(pixels_of(photos / "a.png"), before)


def test_resize_does_not_search_its_own_results(photos):
    for _ in range(2):
        result = run("resize", photos, "--size", "5x4", "--out", photos / "small")
        assert result.exit_code == 0
        assert "3 written" in result.output
    assert not (photos / "small" / "small").exists()


def test_resize_reads_every_usual_mode(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    image.save(tmp_path / "cmyk.jpg", format="JPEG")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.quantize(16).save(tmp_path / "palette.png")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.save(tmp_path / "ünïcode [bold].gif", save_all=True, append_images=[image.rotate(90)])
    ramp = np.linspace(0, 65_535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    (tmp_path / "folder.png").mkdir()
    result = run("resize", tmp_path, "--size", "8x8", "--out", tmp_path / "o[bold]", "--method", "area")
    assert result.exit_code == 0, result.output
    assert "5 written" in result.output
    assert np.abs(pixels_of(tmp_path / "o[bold]" / "ramp.png")[:, :, 0] - ramp / 257).max() <= 0.51
    assert np.abs(pixels_of(tmp_path / "o[bold]" / "alpha.png").astype(int) - rgb).max() == 0


@pytest.mark.parametrize("damage", ["float", "empty", "exif"])
def test_resize_reports_what_it_cannot_decode(damage, photos, tmp_path):
    bad = photos / ("bad.jpg" if damage == "exif" else "bad.tif")
    if damage == "float":
        Image.fromarray(np.random.default_rng(0).random((4, 4), dtype=np.float32)).save(bad)
    elif damage == "empty":
        bad.write_bytes(b"")
    else:
        data = bytearray((photos / "turned.jpg").read_bytes())
        start = data.index(b"Exif")
        data[start + 14 : start + 20] = b"\xff" * 6
        bad.write_bytes(data)
    result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out")
    if damage == "exif":  # Pillow may ignore the block or fail on it; either way the others are done
        assert "written" in result.output
        assert (tmp_path / "out" / "turned.png").exists()
        return
    assert result.exit_code == 1
    assert f"failed: {bad}" in result.output
    assert "3 written" in result.output


def test_resize_survives_a_decoder_that_fails_in_its_own_way(photos, tmp_path, monkeypatch):
    def transpose(image):
        if image.filename.endswith("turned.jpg"):
            raise TypeError("bad operand type for abs(): 'str'")
        return image

    monkeypatch.setattr("tritonds.cli.ImageOps.exif_transpose", transpose)
    result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "turned.jpg: TypeError: bad operand type for abs(): 'str'" in result.output
    assert "2 written" in result.output


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
        (("--size", "5x5", "--weights", "natural-k3"), "expected one of ('natural-k2', 'natural-k4')"),
    ],
)
def test_resize_refuses(arguments, message, photos, tmp_path):
    result = run("resize", photos, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output


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


@pytest.mark.parametrize(("method", "option"), [("texture-only", "distance_channels"), ("distance-only", "texture_channels")])
def test_ablations_take_weights(method, option, tmp_path):
    net = tritonds.DownsizeNet(taps=3, **{option: 0})
    torch.nn.init.normal_(net.out.weight)
    net.save_pretrained(tmp_path)
    image = torch.rand(1, 3, 12, 10)
    torch.testing.assert_close(methods.get(method, tmp_path)(image, (5, 6)), net(image, (5, 6)).detach())


def test_shipped_weights_are_used():
    image = torch.rand(1, 3, 12, 10)
    for name in methods.SHIPPED:
        expected = tritonds.DownsizeNet.from_pretrained(name)(image, (5, 6)).detach()
        torch.testing.assert_close(methods.get(name)(image, (5, 6)), expected)
        torch.testing.assert_close(methods.get("downsizenet", name)(image, (5, 6)), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compare_draws_a_picture_and_prints_a_table(photos, tmp_path):
    result = run("compare", photos / "turned.jpg", "--size", "9x14", "--out", tmp_path / "out" / "picture.png")
    assert result.exit_code == 0, result.output
    assert pixels_of(tmp_path / "out" / "picture.png").std() > 10
    for name in methods.NAMES:
        assert name in result.output
    assert "20x30 to 9x14" in result.output  # upright
    assert all(name in result.output for name in pretrained.SHIPPED)
    tritonds.DownsizeNet(taps=3).save_pretrained(tmp_path / "$^$ [bold]")  # what would be a formula in a title, and a style
    result = run("compare", photos / "a.png", "--out", tmp_path / "own.png", "--weights", tmp_path / "$^$ [bold]")
    assert result.exit_code == 0, result.output
    assert any(
        line.split()[1] == "downsizenet" and "$^$ [bold]" in line for line in result.output.splitlines() if line[:1] == "│"
    )
    assert run("compare", tmp_path / "missing.png").exit_code == 2
    assert "expected a .png" in run("compare", photos / "a.png", "--out", "c.xyz").output


def test_doctor_says_what_would_run():
    result = run("doctor")
    assert result.exit_code == 0
    for text in (tritonds.__version__, torch.__version__, 'backend "auto"', 'backend "triton"'):
        assert text in result.output


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


def test_batch_puts_images_of_several_sizes_into_one(photos, tmp_path):
    result = run("batch", photos / "a.png", photos / "turned.jpg", "--size", "24x24", "--out", tmp_path / "deep" / "batch.png")
    assert result.exit_code == 0, result.output
    assert "2 uint8 images to (2, 3, 24, 24)" in result.output
    for name, pixels, scale, offset in [("a.png", "30x20", "0.8000", "0, 4"), ("turned.jpg", "20x30", "0.8000", "4, 0")]:
        assert any(all(part in line for part in (name, pixels, scale, offset)) for line in result.output.splitlines())
    assert pixels_of(tmp_path / "deep" / "batch.png").std() > 0


def test_batch_refuses_what_it_cannot_read(photos, tmp_path):
    for arguments in ([photos / "notes.txt"], [tmp_path / "none.png"], ["--out", tmp_path / "batch.txt"], ["--size", "0x4"]):
        assert run("batch", *arguments).exit_code == 2


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
