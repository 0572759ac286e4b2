"""`coronanet bench untrained`: weights of a U-Net that has learnt nothing, to be exported and measured."""

from pathlib import Path
from typing import Annotated

import typer

from ..console import JsonOption, emit_json, out
from ..engines.bundle import WEIGHTS
from ..model.errors import MissingPackageError, UsageError


def untrained(
    folder: Annotated[Path, typer.Argument(help="Where card.json and weights.safetensors go.")],
    *,
    features: Annotated[int, typer.Option(min=1, max=256, help="Channels at full resolution.")] = 32,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Height and width in pixels, a multiple of 32.")] = 512,
    as_json: JsonOption = False,
) -> None:
    """Write a U-Net with random weights, to see how fast one of that size would be before anybody trains it."""
    if size % 32:
        raise UsageError(f"expected --size to be a multiple of 32, got {size}: the network halves it five times")
    if (folder / WEIGHTS).exists():
        raise UsageError(f"there are weights in {folder} already: name an empty folder")
    try:
        from .untrained import write_untrained
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", purpose="making a network", extra="train") from None
    try:
        card = write_untrained(folder, features=features, size=size)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from None
    if as_json:
        emit_json({"folder": str(folder), "task": card.task})
        return
    out.print(
        f"written: {folder}\nNext: coronanet export {folder} --fp16 --out {folder}-bundles\n"
        f"      coronanet bench engines --bundles {folder}-bundles --task {card.task}",
        soft_wrap=True,
    )
