"""Results of `tritonds resize` in every format: recognised, kept, replaced, or left as they are; whole, or not there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command import run
from PIL import Image, ImageCms

from tritonds import files

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


def resize(photos, out, *options, size="8x6", method="area"):
    result = run("resize", photos, "--size", size, "--out", out, "--method", method, *options)
    assert result.exit_code == 0, result.output
    return result.output


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name, colour in {"a.png": "red", "a.jpg": "lime", "below/b.webp": "blue"}.items():
        Image.new("RGB", (30, 20), colour).save(folder / name, quality=95)
    return folder


@pytest.mark.parametrize("suffix", FORMATS)
def test_results_are_replaced_by_results_for_the_same_input_alone(suffix, photos, tmp_path):
    out = tmp_path / "out"
    for size in ((8, 6), (9, 7)):
        resize(photos, out, "--format", suffix, size=f"{size[0]}x{size[1]}")
        colours = {"a": [0, 255, 0], "a.png": [255, 0, 0], "below/b": [0, 0, 255]}
        assert set(tree(out)) == {f"{name}.{suffix}" for name in colours}
        for name, colour in colours.items():
            with Image.open(out / f"{name}.{suffix}") as file:
                assert file.format == FORMATS[suffix]
                assert file.size == size
                assert np.abs(np.array(file.convert("RGB")).astype(int) - colour).max() < 9
    foreign = tree(out)["a.png." + suffix]
    (out / f"a.{suffix}").write_bytes(b"somebody else's")
    resize(photos, out, "--format", suffix)
    assert (out / f"a.{suffix}").read_bytes() == b"somebody else's"
    assert tree(out)[f"a.png.{suffix}"] != foreign
    assert (out / f"a.jpg.{suffix}").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_results_are_no_inputs_of_the_next_run(suffix, photos):
    """Nor are inputs written over, which lie in the same folder."""
    before = tree(photos)
    for _ in range(2):
        assert "3 written" in resize(photos, photos, "--format", suffix)
        assert len(tree(photos)) == 6
    assert {name: tree(photos)[name] for name in before} == before


@pytest.mark.parametrize("suffix", FORMATS)
def test_profiles_stay_in_every_format(suffix, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "x.png", icc_profile=profile)
    resize(tmp_path / "x.png", tmp_path / "out", "--format", suffix)
    with Image.open(tmp_path / "out" / f"x.{suffix}") as file:
        assert file.info["icc_profile"] == profile


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_quality_is_the_formats(suffix, tmp_path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    sizes = []
    for quality in ("20", "60", "95"):
        resize(tmp_path / "x.png", tmp_path / "out", "--format", suffix, "--quality", quality, size="64x64")
        sizes.append((tmp_path / "out" / f"x.{suffix}").stat().st_size)
    assert sizes == sorted(set(sizes))


def test_quality_of_png_is_refused(photos, tmp_path):
    result = run("resize", photos, "--size", "8x6", "--out", tmp_path / "out", "--quality", "90")
    assert result.exit_code == 2
    assert "quality: expected with --format jpg or webp" in result.output


@pytest.mark.parametrize("suffix", FORMATS)
def test_existing_results_are_skipped(suffix, photos, tmp_path):
    """Also under another name than the first; also those whose first name is free now."""
    out, options = tmp_path / "out", ("--format", suffix, "--skip-existing")
    assert "3 written" in resize(photos, out, *options)
    before = tree(out)
    assert "0 written" in (said := resize(photos, out, *options))
    assert "3 skipped" in said
    (out / f"a.{suffix}").unlink()
    assert "1 written" in (said := resize(photos, out, *options))
    assert "2 skipped" in said
    assert tree(out) == before


def test_results_of_other_options_or_of_older_inputs_are_not_skipped(photos, tmp_path):
    out = tmp_path / "out"
    resize(photos, out)
    assert "3 written" in resize(photos, out, "--skip-existing", size="8x7")
    assert "3 written" in resize(photos, out, "--skip-existing", size="8x7", method="bilinear")
    assert "3 written" in resize(photos, out, "--skip-existing", "--letterbox", size="8x7", method="bilinear")
    assert "3 skipped" in resize(photos, out, "--skip-existing", "--letterbox", size="8x7", method="bilinear")
    later = time.time() + 60
    os.utime(photos / "a.png", (later, later))
    assert "1 written" in resize(photos, out, "--skip-existing", "--letterbox", size="8x7", method="bilinear")


def test_results_of_retrained_weights_are_not_skipped(photos, tmp_path):
    import torch

    import tritonds

    net = tritonds.DownsizeNet(taps=2)
    for expected in ("3 written", "3 skipped", "3 written"):
        if expected == "3 written":
            torch.nn.init.normal_(net.out.weight)
            net.save_pretrained(tmp_path / "net")
        result = run(
            "resize", photos, "--size", "8x6", "--out", tmp_path / "out", "--weights", tmp_path / "net", "--skip-existing"
        )
        assert expected in result.output


def test_inputs_that_are_gone_are_named_and_not_skipped(photos, tmp_path):
    (photos / "link.png").symlink_to(photos / "a.png")
    resize(photos, tmp_path / "out")
    (photos / "a.png").rename(tmp_path / "gone.png")
    inputs = [photos / "a.png", photos]
    result = run("resize", *inputs, "--size", "8x6", "--out", tmp_path / "out", "--method", "area", "--skip-existing")
    assert result.exit_code == 1
    assert "0 written" in result.output
    assert "2 skipped" in result.output
    for name in ("a.png", "link.png"):
        assert f"failed: {photos / name}: " in result.output


def test_names_as_long_as_they_may_be_are_skipped(photos, tmp_path):
    """Beside the results another name would be too long."""
    (photos / "a.jpg").rename(photos / f"{'b' * 251}.jpg")
    for expected in ("3 written", "3 skipped"):
        assert expected in resize(photos, tmp_path / "out", "--skip-existing")
    (photos / f"{'c' * 251}.jpg").symlink_to(photos / "a.png")
    assert "1 written" in resize(photos, tmp_path / "out", "--skip-existing")


def begin(photos, out):
    """The command, in a process of its own, once it has written some results."""
    command = [sys.executable, "-c", "from tritonds.cli import main; main()", "resize", photos, "--size", "300x300",
               "--out", out, "--method", "bicubic-aa", "--jobs", "2", "--skip-existing"]  # fmt: skip
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without, which go on
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    signal.signal(signal.SIGINT, handler)
    give_up = time.monotonic() + 120
    while len(list(out.glob("*.png"))) < 5 and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.002)
    assert process.poll() is None, process.stdout.read()
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_where_it_was(how, tmp_path, seed):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    for number in range(1000):  # more than are done before a busy machine delivers the signal
        path = photos / f"{number:03d}.jpg"
        if number < 10:
            Image.fromarray(pixels[:, number:]).save(path)
        else:
            path.hardlink_to(photos / f"{number % 10:03d}.jpg")
    process = begin(photos, out)
    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    written = len(list(out.glob("*.png")))
    assert 5 <= written < 980
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert f"interrupted: {written} written" in said
        assert "Traceback" not in said
        assert not list(out.glob(".*"))
    for path in out.glob("*.png"):
        with Image.open(path) as file:
            file.load()
            assert file.size == (300, 300)
    for number in range(written + 20, 1000):
        (photos / f"{number:03d}.jpg").unlink()
    said = resize(photos, out, "--skip-existing", size="300x300", method="bicubic-aa")
    assert "20 written" in said
    assert f"{written} skipped" in said


class TestFind:
    def found(self, *inputs, out="none"):
        return [(str(source.path), str(source.name)) for source in files.find([Path(path) for path in inputs], Path(out))]

    def test_each_input_is_found_once(self, photos, monkeypatch):
        monkeypatch.chdir(photos)
        here = [(name, name) for name in ("a.jpg", "a.png", "below/b.webp")]
        assert self.found(".") == here
        assert self.found(".", ".") == here
        assert self.found(".", "a.png") == here
        assert self.found("a.png", ".", "a.png") == [here[1], here[0], here[2]]
        assert self.found("below/b.webp", ".") == [("below/b.webp", "b.webp"), *here]  # two places in the results
        assert self.found(".", "missing.png") == [*here, ("missing.png", "missing.png")]
        Path("notes.txt").touch()
        assert self.found(".", "notes.txt") == [*here, ("notes.txt", "notes.txt")]

    def test_a_result_is_an_input_only_by_name(self, photos, monkeypatch):
        monkeypatch.chdir(photos)
        resize("a.png", ".")
        assert ("a.png.png", "a.png.png") not in self.found(".", out=".")
        assert ("a.png.png", "a.png.png") in self.found(".", "a.png.png", out=".")

    def test_folders_are_searched_as_their_images_are_taken(self, photos):
        found = files.find([photos], photos / "none")
        assert next(found).path == photos / "a.jpg"
        Image.new("RGB", (3, 3)).save(photos / "below" / "c.png")
        assert [source.path.name for source in found] == ["a.png", "b.webp", "c.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator alone")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_memory_is_kept_by_the_command_alone(kept):
    """Seen by the pages that a process takes anew: half a million of 4 kB for ten times 200 MB."""
    module = Path(files.__file__).with_name("allocation.py")
    program = f"""
import ctypes, resource, runpy
keep = runpy.run_path({str(module)!r})["keep_freed_memory"]
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if {kept}:
    keep()
def once():
    address = libc.malloc(200_000_000)
    ctypes.memset(address, 1, 200_000_000)
    libc.free(address)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert faults < 100 if kept else faults > 500
