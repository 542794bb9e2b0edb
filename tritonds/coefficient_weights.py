"""The weights of the network that infers the coefficients: by name, as users give them, or as one list, as operators do."""

from typing import NamedTuple

from torch import Tensor

SHARPENING = ("bicubic", "lanczos")
"""Priors with negative coefficients, whose strength is one more output of the network."""


def output_rows(taps: int, prior: str | None) -> int:
    """Rows of the output layer: a logit for each tap and, with a sharpening prior, its strength g."""
    return taps * taps + (prior in SHARPENING)


class CoefficientWeights(NamedTuple):
    """Weights of the sub-network that infers the interpolation coefficients, each in :class:`torch.nn.Linear` layout.

    ``E`` distance channels, ``F`` texture channels, ``M`` hidden channels, ``K`` taps per axis. Leave out both distance
    tensors for ``E = 0``; pass no texture for ``F = 0``. The output layer reads ``M`` channels, or ``E + F`` without hidden
    layers.
    """

    distance_weight: Tensor | None
    """(E, 2K): weights of the vertical, then of the horizontal distances."""
    distance_bias: Tensor | None
    """(E,)"""
    hidden_weights: tuple[Tensor, ...]
    """Up to three of shape (M, in); the first reads the E distance channels, then the F texture channels."""
    hidden_biases: tuple[Tensor, ...]
    """(M,) each."""
    out_weight: Tensor
    """(K*K, in): a logit for tap (ky, kx) at row ky * K + kx. With a sharpening prior (K*K + 1, in): the last row gives g."""
    out_bias: Tensor
    """(K*K,), or (K*K + 1,)"""


def flatten(weights: CoefficientWeights) -> list[Tensor]:
    """Weight and bias of the distance encoding if there is one, of each hidden layer, of the output layer."""
    flat = []
    if weights.distance_weight is not None and weights.distance_bias is not None:
        flat += [weights.distance_weight, weights.distance_bias]
    for weight, bias in zip(weights.hidden_weights, weights.hidden_biases, strict=True):
        flat += [weight, bias]
    return [*flat, weights.out_weight, weights.out_bias]


def unflatten(flat: list[Tensor], distance: bool) -> CoefficientWeights:
    """The inverse of :func:`flatten`, given whether there is a distance encoding."""
    distance_weight, distance_bias = flat[:2] if distance else (None, None)
    hidden = flat[2 if distance else 0 : -2]
    return CoefficientWeights(distance_weight, distance_bias, tuple(hidden[::2]), tuple(hidden[1::2]), flat[-2], flat[-1])


def given(weights: CoefficientWeights) -> list[Tensor] | None:
    """As :func:`flatten`, of weights that nobody has checked: None if they are not of the right form."""
    if type(weights) is not CoefficientWeights or (weights.distance_weight is None) != (weights.distance_bias is None):
        return None
    hidden_weights, hidden_biases = weights.hidden_weights, weights.hidden_biases
    if type(hidden_weights) is not tuple or type(hidden_biases) is not tuple or len(hidden_weights) != len(hidden_biases):
        return None
    return flatten(weights)
