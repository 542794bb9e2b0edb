"""Decoding, computing and encoding side by side: the same results, names and messages as one after the other."""

import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from PIL import Image

import tritonds
from tritonds import files, methods, pipeline

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path, seed):
    """Large and small images in turns, two of each name, of 8 and of 16 bits; and some that cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number in range(12):
        side = 900 if number % 3 == 0 else 20
        pixels = random.integers(0, 256, (side, side + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg")
        Image.fromarray(pixels[:20, :20]).save(folder / f"{number:02d}.png")
    for number in (3, 7):
        (folder / f"{number:02d}.bmp").write_bytes(b"no image")
        Image.fromarray(random.integers(0, 2**16, (20, 30)).astype(np.uint16)).save(folder / f"deep{number}.png")
    (folder / "05.jpg").write_bytes((folder / "05.jpg").read_bytes()[:300])
    return folder


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", ["bilinear-aa", "natural-k2"])
def test_results_names_and_messages_are_those_of_one_job(method, photos, tmp_path):
    said, trees = [], []
    for jobs in (1, 2, 5):
        out = tmp_path / "out"
        result = run("resize", photos, "--size", "9x7", "--out", out, "--method", method, "--jobs", jobs)
        assert result.exit_code == 1
        said.append([line for line in result.output.splitlines() if str(photos) in line])
        trees.append(tree(out))
        out.rename(tmp_path / f"out{jobs}")
    assert len(trees[0]) == 25
    assert trees[1] == trees[0]
    assert trees[2] == trees[0]
    assert len([line for line in said[0] if "failed" in line]) == 3
    assert len([line for line in said[0] if "written as" in line]) == 11
    assert said[1] == said[0]
    assert said[2] == said[0]


def outcomes(photos, compute, *, jobs, batched):
    """Pixels, or what failed, by name."""
    sources = files.find([photos], photos / "none")
    found = pipeline.run(sources, compute, lambda source, pixels, profile: pixels.tobytes(), jobs, batched=batched)
    return {str(source.name): result if isinstance(result, bytes) else str(result) for source, result in found}


@pytest.mark.parametrize("letterbox", [False, True])
def test_batches_give_what_single_images_give(letterbox, photos):
    """In order, those of 8 bits apart from those of 16, whatever fails among them."""
    batches = []
    compute = pipeline.computation(methods.get("natural-k2"), (9, 7), letterbox, CPU)

    def noted(images):
        assert len({image.dtype for image in images}) == 1
        batches.append(len(images))
        return compute(images)

    together = outcomes(photos, noted, jobs=2, batched=True)
    assert max(batches) > 5
    assert len(batches) < 10
    alone = outcomes(photos, noted, jobs=2, batched=False)
    assert list(together.items()) == list(alone.items())


def test_one_image_that_fails_in_a_batch_fails_alone(photos):
    compute = pipeline.computation(methods.get("area"), (9, 7), False, CPU)

    def fails(images):
        if sum(image.numel() for image in images) > 2_000_000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return compute(images)

    expected = outcomes(photos, compute, jobs=2, batched=False)
    found = outcomes(photos, fails, jobs=2, batched=True)
    large = {f"{number:02d}.jpg" for number in (0, 3, 6, 9)}
    assert {name for name, result in found.items() if "out of memory" in result.__str__()} == large
    assert {name: found[name] for name in found if name not in large} == {
        name: expected[name] for name in found if name not in large
    }


def test_letterboxes_are_black_whatever_the_network_subtracts(tmp_path):
    """On either path: one image after the other, or a list in a call."""
    tritonds.DownsizeNet(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], prior="bilinear").save_pretrained(tmp_path)
    net = methods.network("downsizenet", tmp_path)
    images = [torch.full((1, 3, 20, 40), 200, dtype=torch.uint8), torch.full((1, 3, 40, 20), 100, dtype=torch.uint8)]
    for compute in (
        pipeline.computation(net, (16, 16), True, CPU),
        lambda images: pipeline._in_one_launch(net, (16, 16), True, CPU, images),
    ):
        wide, tall = (compute(images) * 255).round()
        assert (wide[:, 4:12] == 200).all()
        assert (wide[:, :4] == 0).all()
        assert (wide[:, 12:] == 0).all()
        assert (tall[:, :, 4:12] == 100).all()
        assert (tall[:, :, :4] == 0).all()


def test_letterbox_option(tmp_path):
    Image.new("RGB", (40, 20), (10, 200, 30)).save(tmp_path / "wide.png")
    assert run("resize", tmp_path / "wide.png", "--size", "16x16", "--out", tmp_path / "out", "--letterbox").exit_code == 0
    pixels = np.array(Image.open(tmp_path / "out" / "wide.png"))
    assert (pixels[4:12] == [10, 200, 30]).all()
    assert not pixels[:4].any()
    assert not pixels[12:].any()


@pytest.mark.parametrize("batched", [False, True])
def test_no_more_is_begun_than_workers_and_what_they_are_ahead(batched, photos):
    """However slow whoever takes the results is: memory does not grow with the folder."""
    begun = 0

    def endless():
        nonlocal begun
        while True:
            begun += 1
            assert begun < 200
            yield files.Source(photos / "01.jpg", Path("01.jpg"))

    compute = pipeline.computation(methods.get("area"), (4, 4), False, CPU)
    found = pipeline.run(endless(), compute, lambda source, pixels, profile: b"", 2, batched=batched)
    for taken in range(1, 40):
        next(found)
        limit = 3 + 2 * pipeline.AHEAD * 2 + pipeline.BATCH if batched else 3 + pipeline.AHEAD * 2
        assert begun <= taken + limit
    found.close()
    assert threading.active_count() == len(threading.enumerate())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_batches_hold_no_more_pixels_than_fit(photos, monkeypatch):
    monkeypatch.setattr(pipeline, "BATCH_PIXELS", 1_000_000)
    sizes = []

    def compute(images):
        sizes.append(sum(image[0, 0].numel() for image in images))
        return torch.zeros(len(images), 3, 4, 4)

    outcomes(photos, compute, jobs=2, batched=True)
    assert len(sizes) > 4
    assert max(sizes) <= 1_000_000


def test_threads_and_warnings_are_as_they_were(photos):
    """Each worker has its share of PyTorch's threads."""
    before, filters, seen = torch.get_num_threads(), list(warnings.filters), set()

    def compute(images):
        seen.add(torch.get_num_threads())
        return torch.zeros(len(images), 3, 4, 4)

    torch.set_num_threads(4)
    try:
        outcomes(photos, compute, jobs=2, batched=False)
        assert seen == {2}
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert list(warnings.filters) == filters


def test_images_are_in_work_at_the_same_time(photos):
    together, meeting = [], threading.Barrier(3, timeout=20)

    def compute(images):
        if not together:
            meeting.wait()
            together.append(time.perf_counter())
        return torch.zeros(len(images), 3, 4, 4)

    outcomes(photos, compute, jobs=3, batched=False)
    assert together


@pytest.mark.parametrize("method", ["bilinear", "bilinear-aa", "bicubic-aa", "area"])
@pytest.mark.parametrize("size", [(9, 7), (1, 1), (61, 80), (130, 7)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_interpolations_are_those_of_float64(method, size, dtype):
    """Up to 1e-7 for each pixel of a side, since PyTorch computes coordinates in float32; half a level of 255 is 2e-3."""
    for shape in ((61, 97), (300, 9)):
        image = torch.randint(256, (1, 3, *shape), dtype=torch.uint8)
        expected = methods.get(method)(image.double() / 255, size)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            given = image.contiguous(memory_format=memory_format)
            given = given if dtype == torch.uint8 else given.float() / 255
            got = pipeline.computation(methods.get(method), size, False, CPU)([given])
            torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-7 * max(shape))


@pytest.mark.parametrize("method", ["area", "natural-k2", "in one launch"])
@pytest.mark.parametrize("letterbox", [False, True])
def test_a_fourth_channel_is_nowhere_seen(method, letterbox):
    """Decoders keep four bytes for each pixel of RGB. Beside images of three it changes nothing."""
    if method == "in one launch":
        net = methods.network("natural-k2")
        compute = partial(pipeline._in_one_launch, net, (9, 7), letterbox, CPU)
    else:
        compute = pipeline.computation(methods.get(method), (9, 7), letterbox, CPU)
    given = [
        torch.randint(256, (1, *size, 4), dtype=torch.uint8).permute(0, 3, 1, 2) for size in ((61, 97), (300, 9), (20, 30))
    ]
    expected = compute([image[:, :3].contiguous() for image in given])
    assert expected.shape == (3, 3, 9, 7)
    torch.testing.assert_close(compute([given[0], given[1][:, :3], given[2]]), expected, rtol=0, atol=1e-6)


def test_tall_images_need_no_more_than_their_own_memory():
    """A square of 100,000 rows would be 40 GB."""
    compute = pipeline.computation(methods.get("bilinear-aa"), (50, 1), False, CPU)
    result = compute([torch.full((1, 3, 100_000, 2), 255, dtype=torch.uint8)])
    torch.testing.assert_close(result, torch.ones(1, 3, 50, 1))
