"""From a PACS and back: fetch what `coronanet predict --pacs` names, store what it wrote."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...model.errors import UsageError
from ...model.readers.dicom.headers import short_hash
from .address import Address
from .dicomweb import MAX_BYTES, check_uid, fetch_series, find_series, store
from .http import Client


@dataclass(frozen=True)
class PacsRequest:
    """What is wanted of a PACS; ``series`` may name a single one by its UID, else it is left to the reader."""

    address: Address
    study: str | None
    series: str | None

    def __post_init__(self) -> None:
        if self.study is None and self.one_series is None:
            raise UsageError("--pacs needs to know what to fetch: pass --study UID, or --series UID")
        for uid, option in ((self.study, "--study"), (self.one_series, "--series")):
            if uid is not None:
                check_uid(uid, option)

    @property
    def one_series(self) -> str | None:
        """The series as the PACS knows it; a number or a hash is the reader's business."""
        return self.series if self.series and "." in self.series else None


@dataclass(frozen=True)
class Fetched:
    """The folder that a study was fetched to, and the study in the PACS that results go back to."""

    folder: Path
    study: str


#: Told how many series are done, and how many there are.
Progress = Callable[[int, int], None]


def fetch(request: PacsRequest, work: Path, *, progress: Progress = lambda *_: None) -> Fetched:
    """Fetch the CT series of a study, or the one asked for, to a folder in ``work`` that is named by a hash.

    Raises:
        UsageError: the PACS does not have it, does not send it whole, or does not answer as a PACS.
    """
    with Client(request.address) as client:
        listed = find_series(client, study=request.study, series=request.one_series)
        wanted = [series for series in listed if request.one_series or series.modality in ("CT", "")]
        if not wanted:
            kinds = ", ".join(sorted({series.modality for series in listed}))
            raise UsageError(f"the study holds no CT series (but {kinds}): expected a chest CT")
        study = wanted[0].study
        folder = work / f"study-{short_hash(study)}"
        left = MAX_BYTES
        for done, series in enumerate(wanted):
            progress(done, len(wanted))
            left -= fetch_series(client, series, folder, left_bytes=left)
    return Fetched(folder, study)


def store_objects(address: Address, study: str, files: list[Path]) -> None:
    """Store the objects that a prediction wrote into the study that it was made of.

    Raises:
        RefusedError: the PACS did not take all of them.
        UsageError: it does not answer as a PACS.
    """
    with Client(address) as client:
        store(client, study, files)
