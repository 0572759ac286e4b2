"""`coronanet predict --pacs`: a study from a PACS, and its results back into it."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..console import err
from ..model.errors import CoronanetError
from ..model.readers import Reading
from .pacs.request import PacsRequest, fetch, store_objects
from .predict import Outcome
from .predict_run import Delivery, Ensemble, predict_and_answer
from .report import DICOM_FILES
from .result import Extras


def predict_from_pacs(
    ensemble: AbstractContextManager[Ensemble],
    request: PacsRequest,
    reading: Reading,
    folder: Path,
    *,
    extras: Extras,
    as_json: bool,
) -> None:
    """Fetch, predict as any DICOM study, store the Segmentation and the Structured Report; the images are not kept.

    Raises:
        UsageError: nothing could be fetched, or it could not be read.
        typer.Exit: the PACS did not take the results (code 1); they are in ``folder``.
    """
    if request.one_series is not None:
        reading = replace(reading, series=None)
    with TemporaryDirectory(prefix="coronanet-") as work:
        with err.status("fetching") as status:
            fetched = fetch(
                request,
                Path(work),
                progress=lambda done, of: status.update(f"fetching series {done + 1} of {of}"),
            )

        def deliver(outcome: Outcome) -> Delivery:
            results = [result for result in outcome.results if set(DICOM_FILES) <= set(result.report.files)]
            if not results:
                return Delivery((), f"nothing was stored: {_why_none(outcome)}")
            files = [result.folder / name for result in results for name in DICOM_FILES]
            try:
                with err.status("storing"):
                    store_objects(request.address, fetched.study, files)
            except CoronanetError as error:
                return Delivery((), str(error))
            return Delivery(DICOM_FILES)

        predict_and_answer(
            ensemble,
            [fetched.folder],
            reading,
            folder,
            extras=replace(extras, dicom=True, needs_dicom=False),
            deliver=deliver,
            as_json=as_json,
        )


def _why_none(outcome: Outcome) -> str:
    """What the report says of objects that could not be made, and where it is."""
    (result, *_) = outcome.results
    return f"{result.report.input.notes[-1]}; the report is in {result.folder}"
