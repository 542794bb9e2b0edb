"""The command line, run as a user runs it, and the methods behind it."""

import os
import resource
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms
from typer.testing import CliRunner

import tritonds
from tritonds import files, methods, pretrained
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


def test_resize_keeps_the_results_of_inputs_of_one_name(photos, tmp_path):
    """By their suffixes, then by numbers; the same names when it is run again, whatever comes first."""
    (tmp_path / "q").mkdir()
    grey = Image.new("L", (30, 20), 77)
    inputs = [photos / "a.png", photos / "a.bmp", tmp_path / "q" / "a.bmp"]
    Image.fromarray(255 - pixels_of(photos / "a.png")).save(inputs[1])
    grey.save(inputs[2])
    for order in (1, -1):
        result = run("resize", *inputs[::order], "--size", "5x4", "--out", tmp_path / "out", "--method", "area")
        assert result.exit_code == 0, result.output
        assert "3 written" in result.output
        assert f"{tmp_path / 'q' / 'a.bmp'}: written as {tmp_path / 'out' / 'a.bmp.2.png'}" in result.output
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.bmp.2.png", "a.bmp.png", "a.png"]
        assert (pixels_of(tmp_path / "out" / "a.bmp.2.png") == 77).all()
        total = pixels_of(tmp_path / "out" / "a.png").astype(int) + pixels_of(tmp_path / "out" / "a.bmp.png")
        assert np.abs(total - 255).max() <= 1


def test_resize_keeps_results_of_one_name_of_several_runs(photos, tmp_path):
    Image.new("RGB", (30, 20), "red").save(photos / "a.bmp")
    for name in ("a.png", "a.bmp", "a.png", "a.bmp"):
        assert run("resize", photos / name, "--size", "5x4", "--out", tmp_path / "out").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.bmp.png", "a.png"]
    assert (pixels_of(tmp_path / "out" / "a.bmp.png") == [255, 0, 0]).all()


def test_resize_writes_over_nothing_that_it_did_not_write(photos, tmp_path):
    """Neither over an input, in whatever way its name leads there, nor over any other file."""
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").hardlink_to(photos / "a.png")
    (out / "turned.png").symlink_to(photos / "turned.jpg")
    (out / "below").mkdir()
    (out / "below" / "grey.png").write_bytes(b"the only copy of something")
    (out / "notes.png").symlink_to(tmp_path / "nowhere")
    Image.new("RGB", (9, 9)).save(photos / "notes.bmp")
    result = run("resize", photos, "--size", "5x4", "--out", out)
    assert result.exit_code == 0, result.output
    for name in ("a.png.png", "turned.jpg.png", "below/grey.PNG.png", "notes.bmp.png"):
        assert pixels_of(out / name).shape == (4, 5, 3)
    assert (out / "below" / "grey.png").read_bytes() == b"the only copy of something"
    assert not (tmp_path / "nowhere").exists()
    assert run("resize", photos, "--size", "5x4", "--out", photos).exit_code == 0
    assert {path: path.read_bytes() for path in before} == before


def test_resize_keeps_both_where_the_file_system_ignores_case(photos, tmp_path, monkeypatch):
    exists = os.path.lexists

    def exists_in_any_case(path):
        folder, name = os.path.split(path)
        return exists(path) or (exists(folder) and name.lower() in (other.lower() for other in os.listdir(folder)))

    monkeypatch.setattr(os.path, "lexists", exists_in_any_case)
    Image.new("RGB", (30, 20), "red").save(photos / "A.png")
    assert run("resize", photos / "A.png", photos / "a.png", "--size", "5x4", "--out", tmp_path / "out").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["A.png", "a.png.png"]


def test_resize_leaves_nothing_half_written(photos, tmp_path):
    """As on a full disk: no file may grow beyond some bytes."""
    out = tmp_path / "out"
    assert run("resize", photos / "a.png", "--size", "12x8", "--out", out).exit_code == 0
    before = (out / "a.png").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
    try:
        result = run("resize", photos, "--size", "12x8", "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 1
    assert result.output.count("File too large") == 3
    assert [p for p in out.rglob("*") if p.is_file()] == [out / "a.png"]
    assert (out / "a.png").read_bytes() == before


@pytest.mark.parametrize("memory", ["address space", "of a GPU"])
def test_resize_goes_on_past_an_image_too_large_for_memory(memory, photos, tmp_path, monkeypatch):
    side = 12_000 if memory == "address space" else 1_200
    Image.new("1", (side, side)).save(photos / "huge.png")
    if memory == "of a GPU":

        def method(image, size):
            if image.shape[2] > 1000:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nAnd a stack.")
            return methods.INTERPOLATIONS["area"](image, size)

        monkeypatch.setattr(methods, "get", lambda *_: method)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if memory == "address space":
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, limits[1]))
    try:
        result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out", "--method", "area")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert result.exit_code == 1, result.output
    assert f"failed: {photos / 'huge.png'}: " in result.output
    assert "3 written" in result.output
    assert "Traceback" not in result.output
    assert "stack" not in result.output


@pytest.mark.parametrize("what", ["a file", "below a file", "not to be made"])
def test_resize_refuses_an_out_that_is_no_folder(what, photos):
    out = {"a file": photos / "notes.txt", "below a file": photos / "notes.txt" / "out", "not to be made": "/proc/none/out"}[
        what
    ]
    result = run("resize", photos, "--size", "5x4", "--out", out)
    assert result.exit_code == 2
    assert "out: [Errno" in result.output
    assert (photos / "notes.txt").read_text() == "not looked at"


def test_resize_does_not_search_its_own_results(photos):
    for _ in range(2):
        result = run("resize", photos, "--size", "5x4", "--out", photos / "small")
        assert result.exit_code == 0
        assert "3 written" in result.output
    assert not (photos / "small" / "small").exists()


@pytest.mark.parametrize("out", [".", "..", "photos", "photos/below"])
def test_resize_finds_images_below_out(out, photos, monkeypatch):
    """Each time the same, which are not the results."""
    home = photos.parent / "home"
    home.mkdir()
    photos.rename(home / "photos")
    monkeypatch.chdir(home)
    for _ in range(3):
        result = run("resize", "photos", "--size", "5x4", "--out", out, "--method", "area")
        assert result.exit_code == 0, result.output
        assert "3 written" in result.output
    chained = run("resize", out, "--size", "2x2", "--out", "small", "--method", "area")  # results are inputs of another run
    assert chained.exit_code == 0
    assert "0 written" not in chained.output


def test_resize_follows_links_but_not_in_a_circle(photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "elsewhere" / "b.png")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "below" / "circle").symlink_to(photos)
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    (photos / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (photos / "self.png").symlink_to(photos / "self.png")
    os.mkfifo(photos / "pipe.png")
    result = run("resize", photos, photos / "pipe.png", "--size", "5x4", "--out", tmp_path / "out", "--method", "area")
    assert result.exit_code == 1
    assert "4 written" in result.output
    assert (tmp_path / "out" / "linked" / "b.png").exists()
    assert f"failed: {photos / 'dangling.png'}: a link to {tmp_path / 'nowhere.png'}, where there is nothing" in result.output
    assert f"failed: {photos / 'self.png'}: a link" in result.output
    assert result.output.count(f"failed: {photos / 'pipe.png'}: neither a file nor a folder") == 1  # both name it


def test_resize_names_a_folder_that_it_may_not_search(photos, tmp_path, monkeypatch):
    iterdir = Path.iterdir

    def refuse(path):
        if path.name == "below":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out", "--method", "area")
    assert result.exit_code == 1
    assert "2 written" in result.output
    assert f"failed: {photos / 'below'}: [Errno 13] Permission denied" in result.output


def test_resize_of_names_that_are_hard_to_show(photos, tmp_path):
    data = (photos / "a.png").read_bytes()
    names = [
        b"\xff.png",
        b"two\nlines.png",
        b"\x1b[31mred.png",
        b"-dash.png",
        b" .png",
        b"[bold]x.png",
        b"b" * 251 + b".png",
    ]
    odd = os.fsencode(tmp_path / "odd")
    os.mkdir(odd)
    for name in names:
        Path(os.fsdecode(odd + b"/" + name)).write_bytes(data)
        Path(os.fsdecode(odd + b"/cut" + name[:100] + b".png")).write_bytes(data[:60])
    result = run("resize", tmp_path / "odd", "--size", "5x4", "--out", tmp_path / "out", "--method", "area")
    assert result.exit_code == 1
    assert f"{len(names)} written" in result.output
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted(names)
    for shown in (r"cut\udcff.png", r"cuttwo\nlines.png", r"cut\x1b[31mred.png", "cut[bold]x.png"):
        assert shown in result.output
    assert "\x1b[31mred" not in result.output
    missing = run("compare", os.fsdecode(b"\xff.png"), "--out", tmp_path / os.fsdecode(b"\xfe.xyz"))
    assert missing.exit_code == 2
    missing.output.encode()


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

    monkeypatch.setattr("tritonds.files.ImageOps.exif_transpose", transpose)
    result = run("resize", photos, "--size", "5x4", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "turned.jpg: TypeError: bad operand type for abs(): 'str'" in result.output
    assert "2 written" in result.output


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


@pytest.mark.parametrize(
    "kind", ["12 bits", "16 bits", "big-endian", "negative", "png", "turned", "pgm 65535", "pgm 4095", "plain pgm"]
)
def test_grey_of_more_than_8_bits_keeps_its_range(kind, tmp_path):
    white = {"12 bits": 4095, "pgm 4095": 4095, "plain pgm": 1000}.get(kind, 65_535)
    values = np.linspace(0, white, 64).round().astype(np.uint16).reshape(8, 8)
    path = tmp_path / ("x.pgm" if "pgm" in kind else "x.png" if kind == "png" else "x.tif")
    if kind.startswith("pgm"):
        path.write_bytes(b"P5 8 8 %d\n" % white + values.astype(">u2").tobytes())
    elif kind == "plain pgm":
        path.write_text(f"P2 8 8 {white}\n" + " ".join(map(str, values.flatten())))
    elif kind == "png":
        Image.fromarray(values).save(path)
    elif kind == "turned":
        Image.fromarray(values).save(path, tiffinfo={0x0112: 6})
    else:
        tiff(
            path, values, 12 if kind == "12 bits" else 16, 0 if kind == "negative" else 1, ">" if kind == "big-endian" else "<"
        )
    expected = values / white
    if kind == "turned":
        expected = np.rot90(expected, -1)
    image = files.read(path).pixels[0, 0].numpy()
    np.testing.assert_allclose(image, 1 - expected if kind == "negative" else expected, atol=2e-5)
    assert run("resize", path, "--size", "8x8", "--out", tmp_path / "out", "--method", "area").exit_code == 0
    assert np.abs(pixels_of(tmp_path / "out" / "x.png")[:, :, 1] - image * 255).max() < 0.51


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_every_orientation_is_turned_upright(orientation, suffix, tmp_path):
    """Once, whatever Pillow has done already. The image as it is stored is what a camera held that way saw."""
    upright = np.kron([[0, 80, 160], [255, 120, 40]], np.ones((16, 16))).astype(np.uint8)
    turn = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T, 6: np.rot90,
            7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn(upright))).convert("RGB")
    options = {"tiffinfo": {0x0112: orientation}} if suffix == ".tif" else {"exif": exif, "quality": 95}
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
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", icc_profile=profile, exif=exif)
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


@pytest.mark.parametrize("command", ["compare", "batch"])
def test_pictures_are_not_drawn_over_an_input(command, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / f"{command}.png"
    own.write_bytes((photos / "a.png").read_bytes())
    Path("hard.png").hardlink_to(own)
    Path("soft.png").symlink_to(own)
    for out in ("hard.png", "soft.png", own, f"photos/../{own.name}"):
        result = run(command, own.name, "--out", out, "--size", "9x9")
        assert result.exit_code == 2
        assert "is an input" in result.output
    for _ in range(2):
        result = run(command, own.name, "--size", "9x9")
        assert result.exit_code == 0, result.output
        assert f"wrote {command}-2.png" in result.output
    assert own.read_bytes() == (photos / "a.png").read_bytes()
    assert sorted(p.name for p in tmp_path.glob("*.p*")) == sorted([own.name, f"{command}-2.png", "hard.png", "soft.png"])


@pytest.mark.parametrize("command", ["compare", "batch"])
def test_pictures_that_cannot_be_written_are_refused(command, photos, tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (photos / "notes.txt").chmod(0o600)
    for out in ("folder.png", "pipe.png", photos / "notes.txt" / "x.png", "/proc/none/x.png"):
        result = run(command, photos / "a.png", "--out", tmp_path / out)
        assert result.exit_code == 2, result.output
        assert "out: " in result.output
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        result = run(command, photos / "a.png", "--out", tmp_path / "x.png", "--size", "9x9")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 1
    assert "failed: [Errno 27] File too large" in result.output
    assert not list(tmp_path.glob("*x.png*")) + list(tmp_path.glob(".*"))


def test_doctor_says_what_would_run():
    result = run("doctor")
    assert result.exit_code == 0
    for text in (tritonds.__version__, torch.__version__, 'backend "auto"', 'backend "triton"'):
        assert text in result.output
    if not torch.cuda.is_available():  # in the interpreter
        assert "not in bfloat16" in " ".join(result.output.replace("│", " ").split())


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


def test_batch_of_many_images_draws_the_first(photos, tmp_path):
    result = run("batch", *[photos / "a.png"] * 12, "--size", "4x4", "--out", tmp_path / "batch.png")
    assert result.exit_code == 0, result.output
    assert "12 uint8 images" in result.output
    assert pixels_of(tmp_path / "batch.png").shape[1] < 9 * 240


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
