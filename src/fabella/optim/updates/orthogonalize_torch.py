"""Newton–Schulz iteration: the nearest orthogonal matrix, approximately and without a decomposition."""

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic polynomial of Jordan et al. 2024: the steepest slope at 0, so that small singular values grow fast."""
ITERATIONS = 5
EPS = 1e-7


def orthogonalize(matrices: Float[Tensor, "N R C"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "N R C"]:
    """Return about U V^T of each U S V^T in ``matrices``, in ``dtype``; the singular values are between 0.5 and 1.2.

    ``dtype``: of the products. bfloat16 changes a singular value by a few hundredths.
    """
    a, b, c = COEFFICIENTS
    x = matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # the Gram matrix of the shorter side is the smaller one
        x = x.mT
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPS)).to(dtype)  # now no singular value is above 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
