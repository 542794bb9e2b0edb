"""``tritonds resize``: which files it finds, under which names it writes, and that no file is lost."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from command import limited, pixels_of, run
from PIL import Image


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
    with limited(resource.RLIMIT_FSIZE, 60):
        result = run("resize", photos, "--size", "12x8", "--out", out)
    assert result.exit_code == 1
    assert result.output.count("File too large") == 3
    assert [p for p in out.rglob("*") if p.is_file()] == [out / "a.png"]
    assert (out / "a.png").read_bytes() == before


@pytest.mark.parametrize("out", ["notes.txt", "notes.txt/below", "/proc/none/out"])
def test_resize_refuses_an_out_that_is_no_folder(out, photos):
    result = run("resize", photos, "--size", "5x4", "--out", photos / out)
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
