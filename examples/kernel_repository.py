"""This package as a repository for the library ``kernels``: python examples/kernel_repository.py FOLDER _tritonds_1a2b3c4

The second argument is a Python name that no other version has, such as one with the first digits of the commit. ``kernels``
will import the package by that name, and its operators will be ``torch.ops._tritonds_1a2b3c4.*``.
"""

import base64
import hashlib
import json
import pathlib
import shutil
import sys

import tritonds

BACKENDS = ("cpu", "cuda", "rocm")
VERSION = 0
"""The version of the interface; 0 says that it may change."""


def main(folder: str, name: str) -> None:
    for backend in BACKENDS:
        variant = pathlib.Path(folder) / "build" / f"torch-{backend}"
        shutil.copytree(pathlib.Path(tritonds.__file__).parent, variant, ignore=shutil.ignore_patterns("__pycache__"))
        files = sorted(path for path in variant.rglob("*") if path.is_file())
        digests = {str(path.relative_to(variant)): hashlib.sha256(path.read_bytes()).digest() for path in files}
        metadata = {
            "id": name,
            "name": "tritonds",
            "version": VERSION,
            "license": "Apache-2.0",
            "python-depends": [],
            "backend": {"type": backend},
            "digest": {
                "algorithm": "sha256",
                "files": {path: base64.b64encode(digest).decode() for path, digest in digests.items()},
            },
        }
        (variant / "metadata.json").write_text(json.dumps(metadata, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
