"""Newton–Schulz iteration: the nearest orthogonal matrix, approximately and without a decomposition."""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic polynomial of Jordan et al. 2024: the steepest slope at 0, so that small singular values grow fast."""
ITERATIONS = 5
EPS = 1e-7


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return about U V^T of each U S V^T in ``matrices`` [N R C]; the singular values are between 0.5 and 1.2.

    In bfloat16 on CUDA, where its products are fastest. In float32 on all other devices: CPUs without bfloat16 products
    emulate them, and those that have them differ from one another by more than the tests of distributed training allow.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # the Gram matrix of the shorter side is the smaller one
        x = x.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPS)  # now no singular value is above 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
