"""``tritonds batch``."""

from command import pixels_of, run


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


def test_batch_refuses_what_it_cannot_read(photos, tmp_path):
    for arguments in ([photos / "notes.txt"], [tmp_path / "none.png"], ["--out", tmp_path / "batch.txt"], ["--size", "0x4"]):
        assert run("batch", *arguments).exit_code == 2
