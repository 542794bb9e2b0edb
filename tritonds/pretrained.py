"""Networks as files: safetensors, which hold numbers and a header of text, so that reading one runs no code.

The header's entry ``tritonds`` is JSON: ``{"format": 1, "options": {...}}`` with the options of :class:`tritonds.DownsizeNet`,
``out_dtype`` by its name. The tensors are the network's state_dict. So the file is complete by itself. In a folder,
``config.json`` repeats the entry for readers without safetensors, such as the Hugging Face Hub, which counts downloads by it.
Nothing is taken from it, and one that says otherwise than the header is refused.
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

from . import hub
from .dtypes import DTYPES

SHIPPED = ("natural-k2", "natural-k4", "natural-k8", "natural-k8-lite")
"""The networks that the package holds, by name."""
FILE = "model.safetensors"
"""What a network's file is called in a folder of its own."""
CONFIG = "config.json"
KEY = "tritonds"
FORMAT = 1
DTYPE_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def locate(name_or_path: str | PathLike[str], revision: str | None) -> AbstractContextManager[Path]:
    """The file of a shipped network, or at a path, or in the folder there, or in a repository of the Hugging Face Hub.

    Raises:
        FileNotFoundError, ConnectionError: of a repository, as in :func:`tritonds.hub.download`; or it has no such file.
        ValueError: a string without a slash or suffix that is neither a shipped name nor there; a revision of something else
            than a repository.
    """
    path = Path(name_or_path)
    if revision == "":  # huggingface_hub would look for it in its cache, and find a folder
        raise ValueError("revision: expected a branch, a tag or a commit, got ''")
    if name_or_path not in SHIPPED and hub.names_repository(name_or_path) and not path.exists():
        path = hub.download(str(name_or_path), revision, (FILE, CONFIG)) / FILE
        if not path.exists():
            raise FileNotFoundError(f"{name_or_path}: expected {FILE} in the repository on the Hugging Face Hub, got none")
        return nullcontext(path)
    if revision is not None:
        raise ValueError(f"revision: expected one only of a repository on the Hugging Face Hub, got {revision!r}")
    if name_or_path in SHIPPED:
        return resources.as_file(resources.files(__package__) / "weights" / f"{name_or_path}.safetensors")
    if isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix and not path.exists():
        raise ValueError(
            f"expected one of {SHIPPED}, a file, a folder or a repository 'org/name', got {name_or_path!r}, of which there is "
            "none here"
        )
    return nullcontext(path / FILE if path.is_dir() else path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options and state_dict in the file. The tensors are mapped from it. Whether both belong together is not checked.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not one of :func:`write`.
    """
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a safetensors file, got a folder or a device")
    try:
        with safe_open(str(path), framework="pt") as file:
            entry = _decode(path, (file.metadata() or {}).get(KEY))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the file is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file, got: {error}") from error
    if path.name == FILE:
        _check_config(path.with_name(CONFIG), entry)
    return _options(path, entry), state


def gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with each tensor whole. To gather tensors that are sharded over processes, all processes have to call this."""
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}


def write(path: Path, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write the file with these options and tensors, and its ``config.json``. The folder is made.

    Each is replaced at once, so that none is ever half written.
    """
    from safetensors.torch import save

    dtype = options["out_dtype"]
    plain = {**options, "out_dtype": None if dtype is None else str(dtype).removeprefix("torch.")}
    entry = {"format": FORMAT, "options": plain}
    config = path.with_name(CONFIG)
    contents = {
        path: save({name: value.cpu().contiguous() for name, value in state.items()}, {KEY: json.dumps(entry)}),
        config: (json.dumps({"library_name": hub.LIBRARY, **entry}, indent=2) + "\n").encode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = {target: target.with_name(f"{target.name}.{os.getpid()}.part") for target in contents}
    try:
        for target, content in contents.items():
            temporary[target].write_bytes(content)
        config.unlink(missing_ok=True)  # wherever this stops, no configuration lies beside the file of another network
        for target in contents:
            temporary[target].replace(target)
    finally:
        for part in temporary.values():
            part.unlink(missing_ok=True)


def check_state(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless ``state`` has the names and shapes of ``expected``, one floating dtype, and finite numbers."""
    if state.keys() != expected.keys():
        unknown, missing = sorted(state.keys() - expected.keys()), sorted(expected.keys() - state.keys())
        raise ValueError(f"{path}: expected the tensors of its options, got unknown ones {unknown} and not {missing}")
    dtype = state["out.weight"].dtype
    if any(value.is_meta for value in state.values()):
        raise ValueError(f"{path}: expected parameters with values, got some on the meta device")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise ValueError(f"{path}: {name}: expected shape {tuple(expected[name].shape)}, got {tuple(value.shape)}")
        if value.dtype not in DTYPES or value.dtype != dtype:
            raise ValueError(f"{path}: {name}: expected one of {tuple(DTYPE_NAMES)}, the same for all, got {value.dtype}")
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name}: expected finite numbers, got NaN or infinity")


def _decode(path: Path, text: str | None) -> dict[str, Any]:
    """The header's entry."""
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
    return entry


def _check_config(path: Path, entry: Mapping[str, Any]) -> None:
    """Raise ValueError if this package's configuration says otherwise than the header's entry; it may be missing."""
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got: {error}") from error
    if isinstance(config, dict) and config.get("library_name") == hub.LIBRARY and config != {**config, **entry}:
        raise ValueError(
            f"{path}: expected what the header of {FILE} says, which it repeats; to change options, give them to "
            "DownsizeNet.from_pretrained and save again"
        )


def _options(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The options in the header's entry, as :class:`tritonds.DownsizeNet` takes them."""
    options: dict[str, Any] = entry["options"]
    dtype = options.get("out_dtype")
    if dtype is not None and not (isinstance(dtype, str) and dtype in DTYPE_NAMES):
        raise ValueError(f"{path}: out_dtype: expected null or one of {tuple(DTYPE_NAMES)}, got {dtype!r}")
    return options if dtype is None else {**options, "out_dtype": DTYPE_NAMES[dtype]}
