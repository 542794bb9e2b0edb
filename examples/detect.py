"""A detector of transformers behind DownsizeNet, its image processor in front: python examples/detect.py

The detector is a tiny one with random weights, so that nothing is downloaded. Needs transformers, scipy and Pillow.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

from tritonds import DownsizeNet, labels

SIZE = (64, 64)


def detector() -> YolosForObjectDetection:
    """A tiny detector, in place of ``YolosForObjectDetection.from_pretrained``."""
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_detection_tokens=8,
        image_size=list(SIZE),
        num_labels=3,
    )
    return YolosForObjectDetection(config)


def target(annotation: dict[str, Any]) -> dict[str, Tensor]:
    """What the detector's loss takes: centres and sides, as parts of the letterboxed image."""
    size = tuple(annotation["orig_size"].tolist())
    corners = labels.map_boxes(torch.from_numpy(annotation["boxes"]), size, SIZE, letterbox=True)
    first, last = corners[:, :2], corners[:, 2:]
    boxes = torch.cat([(first + last) / 2, last - first], dim=-1) / torch.tensor([SIZE[1], SIZE[0]] * 2)
    return {"class_labels": torch.from_numpy(annotation["class_labels"]), "boxes": boxes}


def main() -> None:
    torch.manual_seed(0)
    # The processor reads images and annotations, and leaves resizing, scaling and normalising to the layer.
    processor = YolosImageProcessorPil(
        do_resize=False, do_rescale=False, do_normalize=False, do_pad=False, do_convert_annotations=False
    )
    downsize = DownsizeNet.from_pretrained("natural-k4", size=SIZE, mean=processor.image_mean, std=processor.image_std)
    network = detector()
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in ((120, 160), (150, 90))]
    annotations = [
        {"image_id": i, "annotations": [{"bbox": [20, 30, 40, 50], "category_id": 1, "area": 2000, "iscrowd": 0}]}
        for i in (0, 1)
    ]
    read = processor(images, annotations=annotations)
    batch = downsize([torch.from_numpy(pixels) for pixels in read["pixel_values"]], letterbox=True)
    loss = network(batch.images, labels=[target(annotation) for annotation in read["labels"]]).loss
    loss.backward()
    print(
        f"loss {loss:.3f}, its gradient reaches {sum(p.grad is not None for p in downsize.parameters())} tensors of the layer"
    )
    with torch.inference_mode():
        found = processor.post_process_object_detection(network(batch.images), threshold=0.0, target_sizes=[SIZE] * len(images))
    for image, each in zip(images, found, strict=True):
        _, h, w = image.shape
        boxes = labels.map_boxes(each["boxes"], (h, w), SIZE, letterbox=True, inverse=True)
        print(f"{w}x{h}: {len(boxes)} boxes, the first {[round(x) for x in boxes[0].tolist()]}")


if __name__ == "__main__":
    main()
