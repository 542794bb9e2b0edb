"""Image files of every usual kind: pixels, orientation, colour profile; and files that no decoder reads."""

import gc
import struct
import warnings

import cv2
import numpy as np
import pytest
from command import oriented, pixels_of, run
from PIL import Image, ImageCms

from tritonds import files


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


def test_modes_that_are_rare(tmp_path):
    """Each as its own library shows it: palettes with transparency, 1 bit, grey with alpha, 16-bit colour, animations."""
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    palette = image.quantize(8)
    palette.save(tmp_path / "bytes.png", transparency=bytes([0, 128, 255]))
    palette.save(tmp_path / "index.gif", transparency=2)
    image.convert("1").save(tmp_path / "bit.png")
    image.convert("1").save(tmp_path / "fax.tif", compression="group4")
    image.convert("LA").save(tmp_path / "la.png")
    image.convert("YCbCr").save(tmp_path / "ycbcr.tif")
    image.save(tmp_path / "animated.webp", save_all=True, append_images=[image.rotate(90)], lossless=True)
    deep = np.concatenate([rgb, rgb[:, :, :1]], axis=2).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "rgba16.png"), deep[:, :, [2, 1, 0, 3]])
    result = run("resize", tmp_path, "--size", "8x8", "--out", tmp_path / "out", "--method", "area")
    assert result.exit_code == 0, result.output
    plain = np.array(palette.convert("RGB"))
    bit = np.array(image.convert("1").convert("RGB"))
    expected = {"bytes": plain, "index": plain, "bit": bit, "fax": bit, "la": np.array(image.convert("L").convert("RGB")),
                "animated": rgb, "rgba16": rgb}  # fmt: skip
    for name, pixels in expected.items():
        assert np.abs(pixels_of(tmp_path / "out" / f"{name}.png").astype(int) - pixels).max() <= 1, name


def tiff(path, pixels, bits, photometric=1, order="<"):
    """A grey TIFF of so many bits, uncompressed."""
    rows = [[int(v) for v in row] for row in pixels]
    if bits == 12:
        pairs = [pair for row in rows for pair in zip(row[::2], row[1::2], strict=True)]
        packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    else:
        packed = pixels.astype(f"{order}u2").tobytes()
    tags = [(256, 4, len(rows[0])), (257, 4, len(rows)), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
            (277, 3, 1), (278, 4, len(rows)), (279, 4, len(packed))]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI{'Hxx' if kind == 3 else 'I'}", tag, kind, 1, value) for tag, kind, value in tags
    )
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(packed))
    path.write_bytes(start + packed + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))


def pgm(path, values, white):
    path.write_bytes(b"P5 8 8 %d\n" % white + values.astype(">u2").tobytes())


def plain_pgm(path, values, white):
    path.write_text(f"P2 8 8 {white}\n" + " ".join(map(str, values.flatten())))


GREY = {
    "12 bits": ("x.tif", 4095, lambda path, values, _: tiff(path, values, 12)),
    "16 bits": ("x.tif", 65_535, lambda path, values, _: tiff(path, values, 16)),
    "big-endian": ("x.tif", 65_535, lambda path, values, _: tiff(path, values, 16, order=">")),
    "negative": ("x.tif", 65_535, lambda path, values, _: tiff(path, values, 16, photometric=0)),
    "png": ("x.png", 65_535, lambda path, values, _: Image.fromarray(values).save(path)),
    "turned": ("x.tif", 65_535, lambda path, values, _: Image.fromarray(values).save(path, tiffinfo={0x0112: 6})),
    "pgm 65535": ("x.pgm", 65_535, pgm),
    "pgm 4095": ("x.pgm", 4095, pgm),
    "plain pgm": ("x.pgm", 1000, plain_pgm),
}
"""File, its value for white, and what writes it from (path, values, white)."""


@pytest.mark.parametrize("kind", GREY)
def test_grey_of_more_than_8_bits_keeps_its_range(kind, tmp_path):
    name, white, write = GREY[kind]
    values = np.linspace(0, white, 64).round().astype(np.uint16).reshape(8, 8)
    write(tmp_path / name, values, white)
    expected = values / white
    if kind == "turned":
        expected = np.rot90(expected, -1)
    elif kind == "negative":
        expected = 1 - expected
    image = files.read(tmp_path / name).pixels[0, 0].numpy()
    np.testing.assert_allclose(image, expected, atol=2e-5)
    assert run("resize", tmp_path / name, "--size", "8x8", "--out", tmp_path / "out", "--method", "area").exit_code == 0
    assert np.abs(pixels_of(tmp_path / "out" / "x.png")[:, :, 1] - image * 255).max() < 0.51


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_every_orientation_is_turned_upright(orientation, suffix, tmp_path):
    """Once, whatever Pillow has done already. The image as it is stored is what a camera held that way saw."""
    upright = np.kron([[0, 80, 160], [255, 120, 40]], np.ones((16, 16))).astype(np.uint8)
    turn = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T, 6: np.rot90,
            7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}[orientation]  # fmt: skip
    stored = Image.fromarray(np.ascontiguousarray(turn(upright))).convert("RGB")
    options = {"tiffinfo": {0x0112: orientation}} if suffix == ".tif" else {"exif": oriented(orientation), "quality": 95}
    stored.save(tmp_path / f"x{suffix}", **options)
    image = files.read(tmp_path / f"x{suffix}").pixels[0, 1].numpy() * 255
    assert image.shape == upright.shape
    assert np.abs(image[8::16, 8::16] - upright[8::16, 8::16]).max() < 8


def profile_with_red_and_green_exchanged():
    """sRGB's but for the order of its first two channels, so that it cannot be mistaken for it."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = data[green : green + 4], data[red : red + 4]
    return bytes(data)


def test_colour_profiles_stay_with_rgb_values(tmp_path):
    profile = profile_with_red_and_green_exchanged()
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    image.save(tmp_path / "rgb.png", icc_profile=profile)
    image.quantize(4).save(tmp_path / "palette.png", icc_profile=profile)
    image.save(tmp_path / "turned.jpg", icc_profile=profile, exif=oriented(6))
    image.save(tmp_path / "none.png")
    image.convert("CMYK").save(tmp_path / "unfit.jpg", icc_profile=profile)  # a profile of other channels
    result = run("resize", tmp_path, "--size", "4x4", "--out", tmp_path / "out", "--method", "area")
    assert result.exit_code == 0, result.output
    for name in ("rgb", "palette", "turned"):
        with Image.open(tmp_path / "out" / f"{name}.png") as file:
            assert file.info["icc_profile"] == profile
            assert np.abs(np.array(file).astype(int) - [200, 100, 50]).max() <= 3
    for name in ("none", "unfit"):
        with Image.open(tmp_path / "out" / f"{name}.png") as file:
            assert "icc_profile" not in file.info


@pytest.mark.parametrize("damage", ["float", "empty"])
def test_resize_reports_what_it_cannot_decode(damage, photos, tmp_path):
    bad = photos / "bad.tif"
    if damage == "float":
        Image.fromarray(np.random.default_rng(0).random((4, 4), dtype=np.float32)).save(bad)
    else:
        bad.write_bytes(b"")
    result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"failed: {bad}" in result.output
    assert "3 written" in result.output


def test_resize_goes_on_past_a_damaged_exif_block(photos, tmp_path):
    """Pillow may ignore the block or fail on it; either way the others are done."""
    data = bytearray((photos / "turned.jpg").read_bytes())
    start = data.index(b"Exif")
    data[start + 14 : start + 20] = b"\xff" * 6
    (photos / "bad.jpg").write_bytes(data)
    result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out")
    assert "written" in result.output
    assert (tmp_path / "out" / "turned.png").exists()


def test_resize_survives_a_decoder_that_fails_in_its_own_way(photos, tmp_path, monkeypatch):
    def transpose(image):
        if image.filename.endswith("turned.jpg"):
            raise TypeError("bad operand type for abs(): 'str'")
        return image

    monkeypatch.setattr("tritonds.files.ImageOps.exif_transpose", transpose)
    result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "turned.jpg: TypeError: bad operand type for abs(): 'str'" in result.output
    assert "2 written" in result.output


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (2100, 2000)])  # Pillow keeps the rows of the last in several pieces
def test_pixels_live_as_long_as_their_tensor(shape, tmp_path):
    """They are Pillow's own memory, with a fourth channel, unless that is in several pieces."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png", compress_level=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of tensors that must not be written to
        image = files.decode(tmp_path / "x.png").pixels
    assert image.shape[1] == (3 if shape[0] > 2000 else 4)
    gc.collect()
    others = [np.full((*shape, 4), 7, np.uint8) for _ in range(4)]  # would take the memory if it were free
    assert np.array_equal(image[0, :3].permute(1, 2, 0).numpy(), pixels), len(others)
