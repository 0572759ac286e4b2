"""A network of the user's own: its code is imported because the command line names it, and for no other reason."""

import importlib
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..engines.bundle import CARD, WEIGHTS
from ..model.card import OWN_FAMILY, Card
from ..model.errors import UsageError
from ..model.networks import Builder
from ..model.weights import load_network
from .export_errors import first_line, own_line
from .to_onnx import contract

EXPECTED = "expected package.module:function, a function that takes the card and returns a torch.nn.Module"


def import_network(name: str) -> Builder:
    """The function that ``package.module:function`` names, as the builder of a card's network.

    Modules are found among the installed ones and in the current folder, in this order. What the builder raises is a
    ``UsageError`` that names the line.

    Raises:
        UsageError: there is no such module or function, or importing it fails.
    """
    module_name, _, function_name = name.partition(":")
    if not (module_name and function_name):
        raise UsageError(f"no network '{name}': {EXPECTED}")
    if os.getcwd() not in sys.path:
        # Behind everything that is installed, so that no file here takes the place of a package.
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"no module '{error.name}' among the installed ones nor in {os.getcwd()}: {EXPECTED}"
            ) from None
        raise UsageError(f"{module_name} cannot be imported: {first_line(error)} ({own_line(error)})") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"{module_name} ({module.__file__}) has no function '{function_name}': {EXPECTED}")

    def build(card: Card) -> nn.Module:
        try:
            network = function(card)
        except Exception as error:
            raise UsageError(f"{name} fails: {first_line(error)} ({own_line(error)})") from None
        if not isinstance(network, nn.Module):
            raise UsageError(f"{name} returns {type(network).__name__}: expected a torch.nn.Module")
        return network

    return build


@contextmanager
def own_source(name: str | None, weights: Path | None, card: Path | None) -> Generator[tuple[Path, Builder]]:
    """A folder to export the user's own network from, and its builder; loaded and run once before anything is written.

    Args:
        name: ``package.module:function``.
        weights: a safetensors file with the state of what the function returns.
        card: ``card.json`` whose network's family is ``own``.

    Raises:
        UsageError: one of the three is missing or cannot be read, they do not fit each other, or the network does not
            give the logits of the card's task.
    """
    if name is None or weights is None or card is None:
        given = {"--network": name, "--weights": weights, "--card": card}
        missing = ", ".join(option for option, value in given.items() if value is None)
        raise UsageError(f"a network of your own takes --network, --weights and --card together: {missing} is missing")
    read = Card.load(card)
    if not read.network.is_own:
        raise UsageError(
            f'{card} says network.family "{read.network.family}": expected "{OWN_FAMILY}" beside --network {name}'
        )
    builder = import_network(name)
    check_logits(name, read, load_network(read, weights, builder))
    with tempfile.TemporaryDirectory(prefix="coronanet-") as work:
        source = Path(work) / read.task
        source.mkdir()
        (source / CARD).symlink_to(card.resolve())
        (source / WEIGHTS).symlink_to(weights.resolve())
        yield source, builder


def check_logits(name: str, card: Card, network: nn.Module) -> None:
    """Run a network once, on a batch of two.

    Raises:
        UsageError: it cannot take ``pixels`` of the card's geometry, or gives anything but the logits of its task.
    """
    (pixels,), (logits,) = contract(card, "network")
    batch = (2, *pixels.shape[1:])
    try:
        with torch.inference_mode():
            answer = network(torch.zeros(batch))
    except Exception as error:
        raise UsageError(
            f"{name} cannot take pixels float32 {list(batch)}: {first_line(error)} ({own_line(error)})"
        ) from None
    wanted = [2, *logits.shape[1:]]
    expected = f"expected logits float32 {wanted} of {card.task} for pixels {list(batch)}"
    if not isinstance(answer, Tensor):
        raise UsageError(f"{name} gives {type(answer).__name__}: {expected}")
    if list(answer.shape) != wanted or answer.dtype != torch.float32:
        dtype = str(answer.dtype).removeprefix("torch.")
        raise UsageError(f"{name} gives {dtype} {list(answer.shape)}: {expected}")
