"""Sharpness-aware minimisation (SAM; Foret et al., ICLR 2021): losses are taken where the weights are worst nearby."""

import torch


class SharpnessAware:
    """Moves weights by e = rho g / ||g|| along the gradient g of a loss, and back.

    Between the two, the gradient of a training step is taken. The optimizer then steps from the weights themselves,
    which come back bit by bit.
    """

    def __init__(self, rho):
        """
        Args:
            rho (float): Euclidean length of the move over all parameters together.
        """
        self.rho = rho
        self._moved, self._values = [], []

    def ascend(self, loss, parameters):
        """Move parameters to where a loss is larger. Its graph is freed.

        Args:
            loss (Tensor): a scalar.
            parameters (iterable of Parameter): those without a gradient stay.
        """
        self.restore()
        parameters = [p for p in parameters if p.requires_grad]
        with torch.autocast(loss.device.type, enabled=False):  # backward passes are no place for autocast
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        parameters, gradients = zip(*[(p, g) for p, g in zip(parameters, gradients) if g is not None])
        with torch.no_grad():
            norm = torch.stack(torch._foreach_norm(gradients)).norm()
            moves = torch._foreach_mul(gradients, [self.rho / (norm + 1e-12)] * len(gradients))
            self._moved, self._values = list(parameters), [p.detach().clone() for p in parameters]
            torch._foreach_add_(self._moved, moves)

    @torch.no_grad()
    def restore(self):
        """Put the weights back; nothing where they have not moved."""
        if self._moved:
            torch._foreach_copy_(self._moved, self._values)
        self._moved, self._values = [], []
