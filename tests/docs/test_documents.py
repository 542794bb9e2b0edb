"""README and docs: every block of code runs, every link and name leads somewhere, every figure is that of its table."""

import ast
import re
import shlex
import types

import numpy as np
import pytest
import torch
import transformers
import typer.testing
from PIL import Image
from sybil import Document
from sybil.parsers.markdown import CodeBlockParser

import tritonds
from bench import pictures
from bench.__main__ import app as bench_app
from bench.measure import ROOT
from tritonds.cli import app

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
BESIDE_TORCHVISION = re.compile("^(from|import) torch(vision|codec)", re.MULTILINE)
"""Code that tests/vision runs, in another environment."""
RUN = [page for page in PAGES if re.search("```(python|sh)", (ROOT / page).read_text())]
RUN = [page for page in RUN if not BESIDE_TORCHVISION.search((ROOT / page).read_text())]
URL = "https://github.com/tritonds/tritonds/"
RAW = "https://raw.githubusercontent.com/tritonds/tritonds/main/"


def run_python(example):
    """As it stands; without a GPU, but for that."""
    source = example.parsed
    if source.startswith('--8<-- "examples/'):
        return  # which tests run as a script
    if not torch.cuda.is_available():
        source = source.replace(".cuda()", "").replace('autocast("cuda"', 'autocast("cpu"')
    padding = "\n" * (example.line + example.parsed.line_offset)
    exec(compile(padding + source, example.path, "exec"), example.namespace)


def run_shell(example):
    """Commands of tritonds run. Of others, what they name has to be there."""
    for line in example.parsed.splitlines():
        command, *arguments = shlex.split(line, comments=True)
        if command == "tritonds":
            outcome = typer.testing.CliRunner().invoke(app, arguments)
            assert outcome.exit_code == 0, (outcome.output, outcome.exc_info)
        elif command == "make":
            target = next(argument for argument in arguments if "=" not in argument)
            assert f"\n{target}:" in (ROOT / "Makefile").read_text(), line
        elif command == "pip":
            assert arguments[0] == "install"
            extras = re.findall(r"\[(\w+)\]", line)
            assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras), line
        elif command == "pytest":
            assert all((ROOT / argument).exists() for argument in arguments if "/" in argument), line
        else:
            assert (command, *arguments[:2]) == ("python", "-m", "bench"), f"no test knows how to run: {line}"
            outcome = typer.testing.CliRunner().invoke(bench_app, [*arguments[2:], "--help"])
            assert outcome.exit_code == 0, outcome.output


class Network(torch.nn.Module):
    """Stands for a reader's: a classifier; or a detector of one box an image."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(3, 19)

    def forward(self, images):
        return self.out(images.mean(dim=(2, 3)))


def detector(images, pixel_mask):
    assert pixel_mask.shape == (images.shape[0], *images.shape[2:])
    return types.SimpleNamespace(boxes=[torch.rand(5, 4) for _ in images])


def segformer(name, num_labels):
    """In place of the one that would be downloaded, a tiny one that is told the same."""
    assert "/" in name
    config = transformers.SegformerConfig(
        num_labels=num_labels, depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 8, 8), num_attention_heads=(1, 1, 1, 1),
        decoder_hidden_size=8,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


@pytest.fixture
def names():
    """What the pages take as given."""
    images = torch.randint(256, (2, 3, 50, 60), dtype=torch.uint8)
    return {
        "torch": torch,
        "images": images,
        "photos": [torch.randint(256, (3, *size), dtype=torch.uint8) for size in ((40, 30), (25, 60))],
        "network": Network(),
        "detector": detector,
        "loader": [(images.float() / 255, torch.randint(19, (2,)))],
        "scenes": [(images, torch.randint(19, (2, 230, 230)))],
        "truth": torch.rand(5, 4),
        "corners": torch.rand(5, 2),
        "classes": torch.randint(19, (480, 640)),
    }


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files that commands of the pages are given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in ("photos/one.png", "photo.jpg", "a.jpg", "b.png"):
        Image.fromarray(pixels).save(name)
    tritonds.DownsizeNet().save_pretrained("downsize")


# PyTorch says so of any weight that is channels-last, as the texture's is, and writes it whole.
@pytest.mark.filterwarnings("ignore:No complete tensor found in the group:UserWarning")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the command line draws tensors
@pytest.mark.parametrize("page", RUN)
def test_code_runs(page, names, files, monkeypatch, request):
    if "push_to_hub" in (ROOT / page).read_text():
        request.getfixturevalue("hub")
    monkeypatch.setattr(transformers.SegformerForSemanticSegmentation, "from_pretrained", segformer)
    parsers = [CodeBlockParser("python", run_python), CodeBlockParser("sh", run_shell)]
    document = Document.parse(str(ROOT / page), *parsers)
    document.namespace.update(names)
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_a_language_that_is_run(page):
    """Formulas and diagrams are indented instead."""
    languages = re.findall(r"^```(.*)\n(?:(?!```).*\n)*```$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert set(languages) <= {"python", "sh"}


@pytest.mark.parametrize("page", PAGES)
def test_links_into_the_repository_lead_to_files(page):
    text = (ROOT / page).read_text()
    paths = re.findall(rf"{URL}(?:blob|tree)/main/([^)#\s]+)", text) + re.findall(rf"{RAW}([^)\s]+)", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_is_short_and_has_absolute_links_alone():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")] == []


def test_the_designs_map_names_what_is_there():
    text = (ROOT / "docs" / "design.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    cells = re.findall(r"`((?:tritonds|kernels|bench|tests)/[\w/.]+)(?:: (\w+))?`", "\n".join(rows))
    assert len(cells) > 40
    for path, name in cells:
        assert (ROOT / path).exists(), path
        assert not name or re.search(rf"^(def|class) {name}\b", (ROOT / path).read_text(), flags=re.MULTILINE), (path, name)


def test_the_designs_map_is_complete():
    text = (ROOT / "docs" / "design.md").read_text()
    modules = [*(ROOT / "kernels").glob("*.py"), *(ROOT / "tritonds").glob("*.py"), *(ROOT / "bench").glob("*.py")]
    named = [f"{path.parent.name}/{path.name}" for path in modules if path.name != "__init__.py"]
    assert [name for name in named if f"`{name}" not in text and not name.startswith("bench/test_")] == []


def relative_imports(path, level):
    """The modules that a file imports from so many folders up, but for those that type checkers alone read."""
    tree = ast.parse(path.read_text())
    unread = [node for block in ast.walk(tree) if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
              for node in ast.walk(block)]  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == level and node not in unread:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]


def test_imports_run_as_the_design_says():
    text = (ROOT / "docs" / "design.md").read_text()
    blocks = re.findall(r"(?:^    [a-z_, ]+\n){5,}", text, flags=re.MULTILINE)
    for folder, block in zip(("tritonds", "kernels"), blocks, strict=True):
        layers = [line.strip().split(", ") for line in block.splitlines()]
        files = [path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]
        height = {name: index for index, names in enumerate(reversed(layers)) for name in names}
        assert height.keys() - {"kernels"} == {path.stem for path in files}
        for path in files:
            higher = [name for name in relative_imports(path, 1) if height.get(name, -1) >= height[path.stem]]
            assert higher == [], path
            assert set(relative_imports(path, 2)) <= {"geometry"}, path


def test_the_readmes_prediction_is_that_of_the_table():
    page = (ROOT / "docs/results/speed.md").read_text()
    header, line = (
        re.search(rf"^\| {name} \|(.*)\|$", page, re.M) for name in ("workload, pass", "hdx8, uint8 images, K=2, forward")
    )
    guess = dict(zip(header[1].split("|"), line[1].split("|"), strict=True))[" guess µs "].strip()
    assert f"**{guess} µs** is the predicted time" in (ROOT / "README.md").read_text()


@torch.no_grad()
def test_the_readmes_decibels_are_those_of_the_picture():
    found = {name: f"{value:.1f}" for name, value in pictures.decibels().items()}
    said = f"Area averaging reaches {found['area']} dB, antialiased bicubic interpolation {found['bicubic-aa']} dB."
    assert said in " ".join((ROOT / "README.md").read_text().split())


def test_pictures_are_as_committed(tmp_path):
    for path in pictures.draw(tmp_path):
        committed = pictures.FOLDER / path.name
        assert committed.stat().st_size < 300_000
        drawn, kept = (np.asarray(Image.open(file).convert("RGB"), dtype=float) for file in (path, committed))
        assert drawn.shape == kept.shape
        assert np.abs(drawn - kept).mean() < 1  # of 255: edges of letters may be drawn a little otherwise
