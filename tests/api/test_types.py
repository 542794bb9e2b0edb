"""What a type checker makes of calls: the result of a letterbox is another type."""

import subprocess
import sys

import pytest

CODE = """
import torch
from tritonds import CoefficientWeights, Letterboxed, downsize_image

def results(image: torch.Tensor, weights: CoefficientWeights, choice: bool) -> None:
    reveal_type(downsize_image(image, None, None, weights, 4))
    reveal_type(downsize_image([image], None, None, weights, (4, 5), letterbox=False).shape)
    reveal_type(downsize_image(image, None, None, weights, (4, 5), letterbox=True).mask)
    reveal_type(downsize_image(image, None, None, weights, (4, 5), letterbox=choice))
"""


@pytest.mark.long
def test_letterboxes_have_a_type_of_their_own(tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", tmp_path / "code.py"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    types = [line.partition('"')[2].rstrip('"') for line in result.stdout.splitlines() if "Revealed type" in line]
    tensor, shape, mask, either = types
    assert tensor == mask == "torch._tensor.Tensor"
    assert shape.endswith("Size")
    assert "Tensor | tuple[" in either
    assert "Letterboxed" in either
