"""How the networks' weights start."""

from __future__ import annotations

from torch import Tensor, nn


def initialise(network: nn.Module) -> None:
    """Convolutions by He, linear and recurrent inputs by Glorot, recurrences orthogonal, biases 0.

    Layers of other kinds, batch normalisation among them, stay as they were built.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            _zero(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            _zero(module.bias)
        elif isinstance(module, nn.GRU):
            _initialise_gru(module)


def _initialise_gru(gru: nn.GRU) -> None:
    for name, parameter in gru.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.detach().chunk(3):
                nn.init.orthogonal_(gate)
        elif name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
