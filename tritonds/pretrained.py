"""Networks as files: safetensors, which hold numbers and a header of text, so that reading one runs no code.

The header's entry ``tritonds`` is JSON: ``{"format": 1, "options": {...}}`` with the options of :class:`tritonds.DownsizeNet`,
``out_dtype`` by its name. The tensors are the network's state_dict.
"""

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from .dtypes import DTYPES

SHIPPED = ("natural-k2", "natural-k4")
"""The networks that the package holds, by name."""
FILE = "model.safetensors"
"""What a network's file is called in a folder of its own."""
KEY = "tritonds"
FORMAT = 1
DTYPE_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def locate(name_or_path: str | PathLike[str]) -> AbstractContextManager[Path]:
    """The file of a shipped network, or at a path, or in the folder there.

    Raises:
        ValueError: a string without a slash or suffix that is neither a shipped name nor there.
    """
    if name_or_path in SHIPPED:
        return resources.as_file(resources.files(__package__) / "weights" / f"{name_or_path}.safetensors")
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix and not path.exists():
        raise ValueError(f"expected one of {SHIPPED}, a file or a folder, got {name_or_path!r}, of which there is none here")
    return nullcontext(path / FILE if path.is_dir() else path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options and state_dict in the file, the latter mapped from it; whether they belong together is not checked.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not one of :func:`write`.
    """
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a safetensors file, got a folder or a device")
    try:
        with safe_open(str(path), framework="pt") as file:
            options = _decode(path, (file.metadata() or {}).get(KEY))
            return options, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the file is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file, got: {error}") from error


def gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with each tensor whole: those that are sharded over processes are gathered, by all of them together."""
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}


def write(path: Path, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """The file with these options and tensors, replaced at once, so that it is never half written; its folder is made."""
    from safetensors.torch import save

    dtype = options["out_dtype"]
    plain = {**options, "out_dtype": None if dtype is None else str(dtype).removeprefix("torch.")}
    metadata = {KEY: json.dumps({"format": FORMAT, "options": plain})}
    content = save({name: value.cpu().contiguous() for name, value in state.items()}, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_state(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless ``state`` has the names and shapes of ``expected``, one floating dtype, and finite numbers."""
    if state.keys() != expected.keys():
        unknown, missing = sorted(state.keys() - expected.keys()), sorted(expected.keys() - state.keys())
        raise ValueError(f"{path}: expected the tensors of its options, got unknown ones {unknown} and not {missing}")
    dtype = state["out.weight"].dtype
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise ValueError(f"{path}: {name}: expected shape {tuple(expected[name].shape)}, got {tuple(value.shape)}")
        if value.dtype not in DTYPES or value.dtype != dtype:
            raise ValueError(f"{path}: {name}: expected one of {tuple(DTYPE_NAMES)}, the same for all, got {value.dtype}")
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name}: expected finite numbers, got NaN or infinity")


def _decode(path: Path, text: str | None) -> dict[str, Any]:
    """The options in the header's entry."""
    if text is None:
        raise ValueError(f"{path}: expected a file written by DownsizeNet.save_pretrained, got one without metadata {KEY!r}")
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: metadata {KEY!r}: expected JSON, got: {error}") from error
    if not isinstance(entry, dict) or type(entry.get("format")) is not int or not isinstance(entry.get("options"), dict):
        raise ValueError(f"{path}: metadata {KEY!r}: expected a format and options, got {text[:100]}")
    if entry["format"] != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}, got {entry['format']}: another version of tritonds wrote it")
    options: dict[str, Any] = entry["options"]
    dtype = options.get("out_dtype")
    if dtype is not None and not (isinstance(dtype, str) and dtype in DTYPE_NAMES):
        raise ValueError(f"{path}: out_dtype: expected null or one of {tuple(DTYPE_NAMES)}, got {dtype!r}")
    return options if dtype is None else {**options, "out_dtype": DTYPE_NAMES[dtype]}
