"""First weights of the parts that get a rule of their own, drawn from torch's global generator.

The released code has two rules. Both leave aggregation, MSFRN and SFAN as torch makes them and the RPN as torchvision
does; they differ in the part encoder and the box predictor. Two more give every layer a rule, for comparison.
"""

from collections.abc import Iterable

from torch import nn

from diffps.heads.config import Initialisation
from diffps.heads.embedding import CBAM

NORMAL_STD = 0.01


def initialise(rule: Initialisation, encoder: nn.Module, predictor: nn.Module, others: Iterable[nn.Module]) -> None:
    """Initialise a part encoder, a box predictor and, for the rules that reach them, the ``others`` by ``rule``.

    ``v1``: linears and spatial attention Xavier, channel attention Kaiming, biases 0, BatchNorm 1 and 0. ``v2``: every
    weight N(0, 0.01), those of BatchNorm too, biases 0. ``xavier-everywhere``: every convolution and linear Xavier,
    in the others too. ``normal-everywhere``: ``v2``, and the others Xavier. All Xavier and Kaiming are uniform.
    """
    if rule.endswith("everywhere"):
        for part in (encoder, predictor, *others):
            _xavier(part)
    elif rule == "v1":
        for part in (encoder, predictor):
            _xavier(part)
        for module in encoder.modules():
            if isinstance(module, CBAM):
                _kaiming(module)
    if rule in ("v2", "normal-everywhere"):
        for part in (encoder, predictor):
            _normal(part)


def _xavier(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _kaiming(attention: CBAM) -> None:
    """Both layers by the width between them."""
    narrow, _, wide = attention.channel
    assert isinstance(narrow, nn.Linear)
    assert isinstance(wide, nn.Linear)
    nn.init.kaiming_uniform_(narrow.weight, mode="fan_out", nonlinearity="relu")
    nn.init.kaiming_uniform_(wide.weight, mode="fan_in", nonlinearity="relu")


def _normal(part: nn.Module) -> None:
    for name, parameter in part.named_parameters():
        if name.rpartition(".")[2] == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=NORMAL_STD)
