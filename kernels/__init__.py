"""Triton kernels of tritonds and their launchers; nothing else. Imported as ``tritonds.kernels``."""

if __name__ != "tritonds.kernels":
    # Found as ``kernels`` since Python was started in the repository. Libraries that only ask whether a package of that name is
    # there and how new, as transformers does, get one that they cannot use; all else is refused.
    __version__ = "0"
    __path__ = []

    def __getattr__(name):
        if name.startswith("__") and name.endswith("__"):  # what unittest and others ask every module for
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise ImportError(
            f"these kernels are the package 'tritonds.kernels', but were imported as {__name__!r}; "
            "install tritonds (pip install -e .) and import tritonds"
        )
else:
    from .area_pool import area_pool2d, area_pool2d_backward
    from .fused import (
        coefficients,
        coefficients_backward,
        downsize,
        downsize_backward,
        downsize_image,
        downsize_image_backward,
    )
    from .gather import weighted_gather2d, weighted_gather2d_backward

    __all__ = [
        "area_pool2d",
        "area_pool2d_backward",
        "coefficients",
        "coefficients_backward",
        "downsize",
        "downsize_backward",
        "downsize_image",
        "downsize_image_backward",
        "weighted_gather2d",
        "weighted_gather2d_backward",
    ]
