"""Image processors of transformers that leave resizing to the layer, and models of transformers that hold it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import MEAN, STD, images_of, randomized
from transformers import (
    AutoImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    YolosImageProcessorPil,
)

from tritonds import DownsizeNet, labels

OFF = {"do_resize": False, "do_rescale": False, "do_normalize": False}
SIZES = [(140, 90), (75, 160), (131, 131)]
SIZE = (64, 96)
SEGFORMER = dict(
    num_labels=4,
    depths=[1, 1, 1, 1],
    hidden_sizes=[8, 8, 8, 8],
    num_attention_heads=[1, 1, 1, 1],
    decoder_hidden_size=8,
)


@pytest.mark.parametrize("letterbox", [False, True])
def test_segmentation(letterbox, tmp_path):
    """From a processor of any settings, by those three switches alone; image and labels land on the same pixels."""
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, use_fast=False, **OFF)
    images = images_of(SIZES, "cpu")
    maps = [torch.randint(4, size) for size in SIZES]
    read = processor(images, segmentation_maps=maps)
    downsize = DownsizeNet.from_pretrained("natural-k2", size=SIZE, mean=processor.image_mean, std=processor.image_std)
    pixels = [torch.from_numpy(x) for x in read["pixel_values"]]
    assert all(torch.equal(x, y) and x.dtype == torch.uint8 for x, y in zip(pixels, images, strict=True))
    result = downsize(pixels, letterbox=letterbox)
    small = result.images if letterbox else result
    targets = torch.stack([labels.map_masks(torch.from_numpy(x), SIZE, letterbox=letterbox, fill=255) for x in read["labels"]])
    if letterbox:
        assert torch.equal(targets != 255, result.mask)
    network = SegformerForSemanticSegmentation(SegformerConfig(**SEGFORMER))
    network(pixel_values=small, labels=targets).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in downsize.parameters())


def test_the_layer_does_what_the_processor_would():
    """An untrained layer with a prior interpolates, scales and normalises as the processor's own steps, here without size."""
    images = images_of([(12, 16)], "cpu")
    own = SegformerImageProcessorPil(do_resize=False)(images, return_tensors="pt")["pixel_values"]
    pixels = SegformerImageProcessorPil(**OFF)(images, return_tensors="pt")["pixel_values"]
    mean, std = SegformerImageProcessorPil().image_mean, SegformerImageProcessorPil().image_std
    downsize = DownsizeNet((6, 8), prior="bilinear", mean=mean, std=std)
    expected = F.interpolate(own, (6, 8), mode="bilinear")
    torch.testing.assert_close(downsize(pixels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("letterbox", [False, True])
def test_boxes_go_there_and_back(letterbox):
    processor = YolosImageProcessorPil(**OFF, do_pad=False, do_convert_annotations=False)
    images = images_of(SIZES, "cpu")
    annotation = {"bbox": [5.0, 6.0, 10.0, 12.0], "category_id": 1, "area": 120.0, "iscrowd": 0}
    annotations = [{"image_id": i, "annotations": [annotation]} for i in range(len(images))]
    for read, (h, w) in zip(processor(images, annotations=annotations)["labels"], SIZES, strict=True):
        assert read["orig_size"].tolist() == [h, w]
        truth = torch.from_numpy(read["boxes"])
        assert truth.tolist() == [[5.0, 6.0, 15.0, 18.0]]
        small = labels.map_boxes(truth, (h, w), SIZE, letterbox=letterbox)
        centres = torch.cat([(small[:, :2] + small[:, 2:]) / 2, small[:, 2:] - small[:, :2]], dim=1)
        certain = torch.tensor([[[-20.0, 20.0, -20.0]]])
        output = type("Output", (), {"logits": certain, "pred_boxes": (centres / torch.tensor([96, 64] * 2))[None]})
        (found,) = processor.post_process_object_detection(output, threshold=0.5, target_sizes=[SIZE])
        back = labels.map_boxes(found["boxes"], (h, w), SIZE, letterbox=letterbox, inverse=True)
        torch.testing.assert_close(back, truth, rtol=1e-5, atol=1e-4)


class HeldConfig(PreTrainedConfig):
    model_type = "held"


class Held(PreTrainedModel):
    """A network that holds the layer: of options, or trained."""

    config_class = HeldConfig

    def __init__(self, config):
        super().__init__(config)
        if config.pretrained:
            self.downsize = DownsizeNet.from_pretrained(config.pretrained, size=SIZE, mean=MEAN[:3], std=STD[:3])
        else:
            self.downsize = DownsizeNet(SIZE, taps=3, prior="antialias", mean=MEAN[:3], std=STD[:3])
        self.network = SegformerForSemanticSegmentation(SegformerConfig(**SEGFORMER))
        self.post_init()

    def forward(self, images):
        return self.network(self.downsize(images)).logits


# A layer that the model reads from a file keeps the file's dtype.
@pytest.mark.parametrize(("pretrained", "dtype"), [(None, torch.float32), (None, torch.float64), ("natural-k2", torch.float32)])
def test_models_that_hold_the_layer(pretrained, dtype, tmp_path):
    """Saved by transformers, and made on its meta device when loaded: what was trained comes back, not what was shipped."""
    net = Held(HeldConfig(pretrained=pretrained)).eval()
    randomized(net.downsize)
    net.save_pretrained(tmp_path)
    loaded, report = Held.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
    assert not any(report.values()), report
    assert loaded.state_dict().keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        got = loaded.state_dict()[name]
        assert torch.equal(got, value.to(dtype) if value.is_floating_point() else value), name
        assert got.device.type == "cpu"
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 137, 150), dtype=np.uint8))
    assert loaded.downsize.options() == net.downsize.options()
    tolerance = dict(rtol=1e-4, atol=1e-4) if dtype == torch.float64 else dict(rtol=0, atol=0)
    torch.testing.assert_close(loaded(image).float(), net(image), **tolerance)
