"""``tritonds doctor``."""

import torch
from command import run

import tritonds


def test_doctor_says_what_would_run():
    result = run("doctor")
    assert result.exit_code == 0
    for text in (tritonds.__version__, torch.__version__, 'backend "auto"', 'backend "triton"'):
        assert text in result.output
    if not torch.cuda.is_available():  # in the interpreter
        assert "not in bfloat16" in " ".join(result.output.replace("│", " ").split())
