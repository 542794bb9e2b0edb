"""The README's example in front of a transformers network runs as it stands, but for the GPU and the download."""

import re

import pytest
import torch
import transformers

import tritonds
from bench.measure import ROOT


def tiny(name, num_labels):
    assert "/" in name
    config = transformers.SegformerConfig(
        num_labels=num_labels,
        depths=(1, 1, 1, 1),
        hidden_sizes=(8, 8, 8, 8),
        num_attention_heads=(1, 1, 1, 1),
        decoder_hidden_size=8,
    )
    return transformers.SegformerForSemanticSegmentation(config)


# PyTorch says so of any weight that is channels-last, as the texture's is, and writes it whole.
@pytest.mark.filterwarnings("ignore:No complete tensor found in the group:UserWarning")
def test_fine_tuning_and_export(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (block,) = (block for block in blocks if "transformers" in block)
    block = block.replace(".cuda()", "").replace("(230, 230)", "(64, 64)")
    monkeypatch.setattr(transformers.SegformerForSemanticSegmentation, "from_pretrained", tiny)
    monkeypatch.chdir(tmp_path)
    images = torch.randint(256, (2, 3, 150, 150), dtype=torch.uint8)
    names = {"loader": [(images, torch.randint(19, (2, 64, 64)))]}
    exec(compile(block, "README.md", "exec"), names)
    shipped = tritonds.DownsizeNet.from_pretrained("natural-k2", mean=names["mean"], std=names["std"])
    assert not torch.equal(names["downsize"].out.weight, shipped.out.weight)  # it was trained on
    served = torch.export.load("served.pt2").module()
    assert served(images).logits.shape == (2, 19, 16, 16)
    torch.testing.assert_close(served(images[:1]).logits, names["served"](images[:1]).logits, rtol=1e-4, atol=1e-5)
