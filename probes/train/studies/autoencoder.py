"""A TopK sparse autoencoder of activations.

With x an activation, centred and scaled to a mean squared norm of d_model:

    z      = TopK(ReLU(W_e (x - b_pre) + b_e))       at most k of n_features are not 0
    x_hat  = W_d z + b_pre                           columns of W_d have unit norm

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv:2406.04093), section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SparseAutoencoder(nn.Module):
    """The autoencoder; inputs and outputs of the public methods are activations as the model has them.

    Args:
        n_features: width of the dictionary.
        k: features that may be active at once.
        mean: ``(d_model,)`` fp32 of the activations, where ``b_pre`` begins.
        scale: by which activations are divided: root of the mean squared deviation of a coordinate.
        generator: of the decoder's columns to begin with.

    Raises:
        ValueError: ``k`` is not between 1 and ``n_features``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_features: int, k: int, mean: Tensor, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        if not 1 <= k <= n_features:
            raise ValueError(f"k is {k}; wanted 1 to {n_features}, the number of features.")
        self.k = k
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", torch.tensor(scale))
        decoder = nn.functional.normalize(torch.randn(n_features, len(mean), generator=generator), dim=1)
        self.decoder = nn.Parameter(decoder)  # (n_features, d_model): one feature's direction a row
        self.encoder = nn.Parameter(decoder.clone())  # tied at the start, which leaves few features dead
        self.bias = nn.Parameter(torch.zeros(n_features))
        self.pre_bias = nn.Parameter(torch.zeros(len(mean)))

    @property
    def n_features(self) -> int:
        """Width of the dictionary."""
        return len(self.bias)

    def standard(self, activations: Tensor) -> Tensor:
        """``(n, d_model)`` as the autoencoder sees them: centred and scaled."""
        return (activations - self.mean) / self.scale

    def dense(self, standard: Tensor) -> Tensor:
        """Every feature before the choice of k: ``(n, n_features)``, not negative."""
        return torch.relu((standard - self.pre_bias) @ self.encoder.T + self.bias)

    def sparse(self, dense: Tensor) -> Tensor:
        """The k largest of each row, the others 0."""
        values, places = dense.topk(self.k, dim=1)
        return torch.zeros_like(dense).scatter(1, places, values)

    def decode(self, features: Tensor) -> Tensor:
        """``(n, n_features)`` to standard activations ``(n, d_model)``."""
        return features @ self.decoder + self.pre_bias

    @torch.no_grad()
    def features(self, activations: Tensor) -> Tensor:
        """``(n, d_model)`` to ``(n, n_features)`` fp32, at most k of a row not 0."""
        return self.sparse(self.dense(self.standard(activations)))

    @torch.no_grad()
    def reconstruct(self, activations: Tensor) -> Tensor:
        """``(n, d_model)`` to ``(n, d_model)``."""
        return self.decode(self.features(activations)) * self.scale + self.mean

    @torch.no_grad()
    def keep_unit_norm(self) -> None:
        """Scale the decoder's columns back to unit norm, after a step of the optimiser."""
        self.decoder.copy_(nn.functional.normalize(self.decoder, dim=1))

    @torch.no_grad()
    def drop_radial_gradient(self) -> None:
        """Take off the part of the decoder's gradient that would only change a column's length."""
        if self.decoder.grad is not None:
            along = (self.decoder.grad * self.decoder).sum(dim=1, keepdim=True)
            self.decoder.grad -= along * self.decoder
