"""Short causal convolution per channel, which adds the last few inputs to each position."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class ShortConvolution(nn.Module):
    """y_t = x_t + Σ_j w_j · x_{t−j}, j from 0 to ``size`` − 1, with one weight per channel and j."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, 1, size))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        past: Float[Tensor, "B K D"] | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B K D"]]:
        """Return the output and the last K = ``size`` − 1 inputs; ``past``: those before ``x`` (None: 0).

        ``document_starts``: position at which the document of each position starts; inputs before it count as 0.
        """
        size, time = self.weight.shape[2], x.shape[1]
        inputs = functional.pad(x, (0, 0, size - 1, 0)) if past is None else torch.cat((past.to(x.dtype), x), dim=1)
        taps = self.weight.squeeze(1).to(x.dtype).unbind(1)  # the last one is that of the position itself
        y = x
        for start, tap in enumerate(taps):
            shifted = inputs[:, start : start + time]
            if document_starts is not None and start < size - 1:
                age = torch.arange(time, device=x.device) - document_starts  # positions since the document's start
                shifted = shifted * (age >= size - 1 - start).unsqueeze(2)
            y = torch.addcmul(y, shifted, tap)
        return y, inputs[:, time:]
