"""Where things are: bundles, data, and what this machine remembers."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import platformdirs

from ..model.errors import UsageError
from ..model.tasks import TaskName
from .bundle import Bundle

if TYPE_CHECKING:
    from .keys import PublicKey

HOME_VARIABLE = "CORONANET_HOME"
DATA_VARIABLE = "CORONANET_DATA"
ROOT = Path(__file__).resolve().parent.parent


class BundleProvider(Protocol):
    """Opens the bundles in a folder (None: the usual place), exporting the weights that ship where they are not there
    yet; with a ``key`` it exports nothing, and takes only what that key signed. ``tasks`` None: all four."""

    def __call__(
        self, folder: Path | None, /, *, key: "PublicKey | None" = None, tasks: Sequence[TaskName] | None = None
    ) -> Mapping[TaskName, Bundle]: ...


def cache_home() -> Path:
    """The folder that this user's bundles and measurements live in: ``$CORONANET_HOME``, else the user's cache."""
    home = os.environ.get(HOME_VARIABLE)
    return Path(home) if home else Path(platformdirs.user_cache_dir("coronanet", appauthor=False))


def bundle_home(option: Path | None) -> Path:
    """The folder of the bundles: the option, else ``bundles`` in ``cache_home()``."""
    return option if option is not None else cache_home() / "bundles"


def data_home(option: Path | None) -> Path | None:
    """The folder of the real CT: the option, else ``$CORONANET_DATA``, else ``../shared/data`` beside a checkout.

    Raises:
        UsageError: the option or the variable names a folder that is not there.
    """
    named = option or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if named is not None:
        if not named.is_dir():
            raise UsageError(f"no data folder at {named}: pass --data DIR or set {DATA_VARIABLE}")
        return named
    beside = ROOT.parent / "shared" / "data"
    return beside if (ROOT / "pyproject.toml").is_file() and beside.is_dir() else None
