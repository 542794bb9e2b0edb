"""What measures folders, on small ones."""

import pytest
from PIL import Image

from bench import folders


@pytest.mark.long
def test_rows_are_measured_and_written(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- folders -->\nnot measured yet\n<!-- /folders -->\nafter\n")
    monkeypatch.setattr(folders, "PAGE", page)
    monkeypatch.setattr(folders.allocation, "keep_freed_memory", lambda: None)  # of this process
    folders.main(jobs=1, count=2, growth="3", write=True)
    lines = page.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "load" in lines[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
    assert [row[1] for row in rows] == ["2"] * 4 + ["3"]
    assert all(float(row[2]) > 0 for row in rows)
    assert [float(row[3]) > 50 for row in rows if row[3]] == [True] * 3  # the commands'
    assert "not measured" not in page.read_text()


def test_photographs_are_of_the_size_and_differ(tmp_path):
    paths = sorted(folders.photographs(tmp_path / "photos", 10, (96, 128)).iterdir())
    assert len(paths) == 10
    for path in paths:
        with Image.open(path) as file:
            assert file.size == (128, 96)
    assert len({path.read_bytes() for path in paths}) == 8


def test_a_command_that_fails_is_no_measurement(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(Exception, match="non-zero exit status 1"):
        folders.commanding(tmp_path)


@pytest.mark.long
def test_memory_does_not_grow_with_the_folder(tmp_path):
    few, many = (
        folders.commanding(folders.photographs(tmp_path / str(count), count, (96, 128)), "--method", "bilinear-aa")[1]
        for count in (100, 1500)
    )
    assert many < 1.03 * few
