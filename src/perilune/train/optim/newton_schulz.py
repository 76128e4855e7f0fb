"""The orthogonal factor of a matrix by odd polynomials: Newton-Schulz and Polar Express.

Both iterate X <- a X + b (X X^T) X + c (X X^T)^2 X, which moves the singular values towards one
and keeps the singular vectors. Newton-Schulz (Jordan 2024) takes one tuple of coefficients that
rises fast and stays within 0.7 to 1.2; Polar Express (arXiv 2505.16932) takes the best tuple for
each step. On small ill-conditioned matrices five quintic steps leave many values far below one,
which makes updates too small: hence seven steps of Polar Express by default.

Shape suffixes: B matrices, A rows, C columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perilune.train.config import Method

Coefficients = tuple[float, float, float]

QUINTIC: Coefficients = (3.4445, -4.7750, 2.0315)
# Computed for singular values from 1e-3 with a safety factor of 1.02; the last tuple repeats.
POLAR_EXPRESS: tuple[Coefficients, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
TINY = 1e-20  # keeps a matrix of zeros from becoming NaN


def coefficients(method: Method, step: int) -> Coefficients:
    """Of step `step`, from 0."""
    if method is Method.QUINTIC:
        return QUINTIC
    return POLAR_EXPRESS[min(step, len(POLAR_EXPRESS) - 1)]


@torch.no_grad()
def orthogonalise(
    matrices_BAC: Tensor,
    *,
    method: Method = Method.POLAR_EXPRESS,
    steps: int = 7,
    snap: bool = False,
) -> Tensor:
    """U V^T of each matrix U S V^T, about; of a zero matrix, zero.

    `snap` scales the result to the Frobenius norm sqrt(min(A, C)) of an orthogonal matrix.
    """
    x = matrices_BAC.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    safety = 1.02 if method is Method.POLAR_EXPRESS else 1.0
    norm = torch.linalg.matrix_norm(x, keepdim=True) * safety
    x = x / norm.clamp_min(TINY)  # relative: a head with a small gradient gets its full update
    for step in range(steps):
        a, b, c = coefficients(method, step)
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    if snap:
        norm = torch.linalg.matrix_norm(x, keepdim=True)
        x = x * (x.shape[-2] ** 0.5 / norm.clamp_min(TINY))
    return x.mT if tall else x
