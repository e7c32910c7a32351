"""Affine concept editing (ACE): set what the stream says about a concept, rather than take it to zero.

With r the difference of means and r⁻ the mean of the negatives, at the direction's layer and every position:

    h <- h - proj_r h + proj_r r⁻ + alpha r

``alpha`` 0 makes every activation look like a negative's, 1 like a positive's. Ablation is right only if the negatives
lie at the origin; where they do not, it takes harmless prompts off their course as well.

In the engine: the projection on the unit vector v = r / m becomes (origin + alpha) m, whatever it was, where m is the
norm of r and ``origin`` = r⁻ · v / m. That is the operator ``clamp`` with ``low`` = ``high`` = ``origin + alpha`` and
strength 1, whose bounds are in units of m. A bundle keeps ``origin`` among the direction's metrics.

Source: Marshall et al. 2024, "Refusal in LLMs is an affine function" (arXiv:2411.09003), section 2.
"""

from __future__ import annotations

from torch import Tensor

from probes.train.interventions import ApplyScope, Steering, affine


def edit(
    layer: int,
    unit: Tensor,
    magnitude: float,
    origin: float,
    alpha: float,
    strength: float = 1.0,
    scope: ApplyScope = "all",
) -> Steering:
    """Set the projection on ``unit``, ``(d_model,)`` fp32, to that of the negatives' mean plus ``alpha`` times r.

    Args:
        layer: whose output is edited.
        unit: the direction. magnitude: norm of the difference of means.
        origin: projection of the negatives' mean, in units of ``magnitude``.
        alpha: 0: like a negative; 1: like a positive.
        strength: share of the way.
        scope: at which positions.
    """
    steering = affine(layer, unit, clamp_bound(origin, alpha) * magnitude, strength, scope)
    return Steering(f"affine edit, alpha {alpha:g}, {scope} positions", steering.applied)


def clamp_bound(origin: float, alpha: float) -> float:
    """``low`` and ``high`` of the engine's ``clamp`` that is this edit."""
    return origin + alpha
