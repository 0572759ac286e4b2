"""Weights as safetensors: half precision on disk, single precision in memory, never a pickle."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .card import Card
from .errors import UsageError
from .networks import Builder, build

#: How a file of ``torch.save`` begins: a zip archive, or a bare pickle.
_PICKLES = (b"PK\x03\x04", b"\x80")


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights in half precision; batch-norm statistics and parameters stay in single precision.

    Raises:
        OSError: the file cannot be written, such as on a full disk.
    """
    single = {
        f"{name}.{key}"
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for key in module.state_dict()
    }
    stored = {
        name: (value if name in single or not value.is_floating_point() else value.half()).contiguous()
        for name, value in network.state_dict().items()
    }
    # Not through save_file, whose error on a full disk is no OSError.
    path.write_bytes(save(stored))


def load_network(card: Card, path: Path, builder: Builder = build) -> nn.Module:
    """The torch reference: the card's network with the weights of ``path`` upcast to float32, in evaluation mode.

    Args:
        builder: makes the network of a card whose family is ``own``.

    Raises:
        UsageError: the file is missing, not safetensors, or does not fit the card's network.
    """
    upcast = _read(path)
    network = builder(card)
    wanted = network.state_dict()
    wrong = sorted(
        name
        for name in wanted.keys() | upcast.keys()
        if name not in wanted or name not in upcast or wanted[name].shape != upcast[name].shape
    )
    if wrong:
        first = wrong[0]
        expected, given = (list(state[first].shape) if first in state else "none" for state in (wanted, upcast))
        raise UsageError(
            f"{path} does not fit the card's {card.network.family} network: {len(wrong)} tensors differ, "
            f"the first is {first}: expected {expected}, got {given}"
        )
    network.load_state_dict(upcast)
    return network.eval()


def take_weights(network: nn.Module, path: Path) -> int:
    """Start a network from another's weights: every tensor whose name and shape fit is taken.

    Returns:
        How many tensors were taken; the rest keep their values.

    Raises:
        UsageError: the file is missing or not safetensors, or less than half of the network's tensors are in it.
    """
    given, own = _read(path), network.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if 2 * len(fitting) < len(own):
        raise UsageError(
            f"{path} holds {len(fitting)} of the network's {len(own)} tensors: expected weights of the same family"
        )
    network.load_state_dict({**own, **fitting})
    return len(fitting)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"no weights at {path}")
    if _is_pickle(path):
        raise UsageError(
            f"{path} is a pickle, which can run any code and is never loaded here: where you trust it, convert it "
            f'with python -c "import torch; from safetensors.torch import save_file as save; '
            f"save(torch.load('{path.name}', weights_only=True), '{path.stem}.safetensors')\""
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise UsageError(f"{path} is not a safetensors file: {error}", page="corrupted-file") from None
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in state.items()}


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        length, header = file.read(8), file.read(1)
    # Safetensors begins with the length of its header, which can be any bytes, and then the header's brace.
    return header != b"{" and length.startswith(_PICKLES)
