"""Networks on the Hugging Face Hub, through ``huggingface_hub``, which is optional and imported where a repository is named."""

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

LIBRARY = "tritonds"
"""What the Hub calls this package."""
CARD = "README.md"
"""The file that the Hub shows as a model card."""
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_INSTALL = "pip install 'tritonds[hub]'"
_TEXT = """
# {name}

A DownsizeNet of [tritonds](https://github.com/tritonds/tritonds), which shrinks images in front of a vision network.
`config.json` has its options.

```python
from tritonds import DownsizeNet

downsize = DownsizeNet.from_pretrained("{repository}")
small = downsize(images, (160, 160))  # images (N, C, H, W), uint8 or floating
```

No data, results or limits are known to what wrote this card: whoever trained the network says so here.
"""


def names_repository(name: str | PathLike[str]) -> bool:
    """Whether ``name`` is a string like ``org/name``."""
    return isinstance(name, str) and _REPOSITORY.fullmatch(name) is not None and not name.endswith(".safetensors")


def download(repository: str, revision: str | None, files: Sequence[str]) -> Path:
    """The folder in the Hub's cache with those of ``files`` that the repository has, all of one commit.

    Raises:
        FileNotFoundError: no such repository or revision, or none that may be read; or huggingface_hub is not installed.
        ConnectionError: the Hub cannot be reached, and the cache does not have them.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise FileNotFoundError(
            f"{repository}: there is no such file or folder, and to look for it on the Hugging Face Hub takes huggingface_hub: "
            f"{_INSTALL}"
        ) from error
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=list(files), library_name=LIBRARY)
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repository}: the repository on the Hugging Face Hub has no revision {revision or 'main'!r}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repository}: there is no such file or folder, nor a repository on the Hugging Face Hub that you can read "
            "(private and gated ones need a login: hf auth login)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{repository}: there is no such file or folder, it is not in the Hugging Face Hub's cache, and the Hub cannot be "
            "reached (or HF_HUB_OFFLINE is set)"
        ) from error
    return Path(folder)


def upload(folder: Path, repository: str, license: str | None, private: bool | None) -> str:
    """Make the repository unless it is there, and commit the folder's files to it. A repository without a card gets one.

    Returns:
        The commit's URL.

    Raises:
        ImportError: huggingface_hub is not installed.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise ImportError(f"push_to_hub takes huggingface_hub: {_INSTALL}") from error
    api = HfApi(library_name=LIBRARY)
    repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
    contents: dict[str, Path | bytes] = {path.name: path for path in folder.iterdir()}
    if not api.file_exists(repository, CARD):
        contents[CARD] = model_card(repository, license).encode()
    # Not upload_folder, which may split them over several commits.
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
    return api.create_commit(repository, operations, commit_message="Upload DownsizeNet").commit_url


def model_card(repository: str, license: str | None) -> str:
    """A model card for a network of which nothing is known but its name."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=license, library_name=LIBRARY, pipeline_tag="image-to-image", tags=["image-resizing", "downsampling"]
    )
    return f"---\n{data.to_yaml()}\n---\n{_TEXT.format(name=repository.rpartition('/')[2], repository=repository)}"
