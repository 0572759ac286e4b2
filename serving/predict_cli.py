"""`coronanet predict`."""

import importlib.util
from pathlib import Path
from typing import Annotated, get_args

import typer

from ..console import JsonOption
from ..engines.bundle import Precision
from ..engines.connection_cli import (
    ServerKeyOption,
    ServerOption,
    TlsCertificateOption,
    TlsKeyOption,
    TlsOption,
    TlsRootOption,
    load_connection,
)
from ..engines.keys_cli import RequireSignatureOption, load_public_key
from ..engines.open import BACKENDS, PRECISIONS, Backend
from ..engines.predictor import Choice
from ..model.errors import MissingPackageError, UsageError
from ..model.readers.windows import parse_window
from ..window_option import WINDOW, WindowCommand


def register(app: typer.Typer) -> None:
    app.command("predict", cls=WindowCommand)(predict_verb)


def predict_verb(
    ctx: typer.Context,
    *,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT", help="DICOM series, NIfTI (.nii, .nii.gz), PNG or JPEG; files or folders."),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the results go, a folder for each input.")],
    window: Annotated[
        str | None,
        typer.Option(
            WINDOW,
            metavar="LOW HIGH | NAME",
            help="What black and white of 8-bit images mean, in HU: -1350 150, or lung.",
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            metavar="N | HASH | UID",
            help="Another CT series of the study than the one that shows the lungs best; the report names them.",
        ),
    ] = None,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also write a DICOM Segmentation and Structured Report of DICOM inputs.")
    ] = False,
    identify: Annotated[
        bool, typer.Option("--identify", help="Also write into report.json whose study it is, of DICOM inputs.")
    ] = False,
    pacs: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Fetch from this DICOMweb server instead of INPUT, and store the DICOM objects there; the user and "
            "the password are CORONANET_PACS_USER and CORONANET_PACS_PASSWORD.",
        ),
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="With --pacs: the study to fetch.")] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="With --pacs: send images unencrypted to another machine.")
    ] = False,
    server: ServerOption = None,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", min=0.1, help="Seconds that the server may take for a request, with all attempts."),
    ] = 30.0,
    tls: TlsOption = False,
    tls_root: TlsRootOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    server_key: ServerKeyOption = None,
    bundles: Annotated[Path | None, typer.Option(help="Folder of the bundles.")] = None,
    backend: Annotated[
        str | None, typer.Option(help=f"Run all networks on {', '.join(BACKENDS)}; none: the fastest that passed here.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help=f"Compute in {', '.join(get_args(Precision))}; none: the fastest that passed here."),
    ] = None,
    require_signature: RequireSignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read studies, run the ensemble, and write a report, an overlay and masks for each. Research use only."""
    if server is not None and (bundles or backend or precision or require_signature):
        raise UsageError(
            "--server runs the server's own networks: leave out --bundles, --backend, --precision and "
            "--require-signature"
        )
    if (pacs is None) is not bool(inputs):
        raise UsageError("expected INPUT, files or folders, or else --pacs with --study or --series")
    if pacs is None and (study is not None or allow_http):
        raise UsageError("--study and --allow-http are for --pacs: name the address of the PACS")
    if dicom or pacs is not None:
        _need_highdicom()
    meaning = None if window is None else parse_window(window)
    choice = parse_choice(backend, precision)
    key = load_public_key(require_signature)
    connection = load_connection(
        server, tls=tls, tls_root=tls_root, tls_certificate=tls_certificate, tls_key=tls_key, server_key=server_key
    )

    # Here, because OpenCV and nibabel come with it, and `coronanet --help` needs neither.
    from ..model.readers import Reading
    from .predict_run import local_ensemble, predict_and_answer, served_ensemble
    from .result import Extras

    reading, extras = Reading(meaning, series), Extras(dicom=dicom, identify=identify)
    if connection is None:
        ensemble = local_ensemble(ctx.obj, bundles, choice, key)
    else:
        ensemble = served_ensemble(connection, timeout_s)
    if pacs is None:
        predict_and_answer(ensemble, inputs or [], reading, folder, extras=extras, as_json=as_json)
        return
    from .pacs.address import parse_address
    from .pacs.request import PacsRequest
    from .predict_pacs import predict_from_pacs

    request = PacsRequest(parse_address(pacs, allow_http=allow_http), study, series)
    predict_from_pacs(ensemble, request, reading, folder, extras=extras, as_json=as_json)


def _need_highdicom() -> None:
    if importlib.util.find_spec("highdicom") is None:
        raise MissingPackageError("highdicom", purpose="writing DICOM objects", extra="dicom")


def parse_choice(backend: str | None, precision: str | None) -> Choice | None:
    """How to run all networks, None where that is left to what was measured.

    A backend alone runs in fp32; a precision alone on the first backend that has it.

    Raises:
        UsageError: no such backend or precision, or the backend does not have it.
    """
    if backend is None and precision is None:
        return None
    named: list[Backend] = [known for known in BACKENDS if backend in (None, known)]
    if not named:
        raise UsageError(f"no backend '{backend}': expected one of {', '.join(BACKENDS)}")
    wanted = precision or "fp32"
    for known in _in_order_of_use(named):
        for has in PRECISIONS[known]:
            if has == wanted:
                return Choice(known, has)
    available = sorted({has for known in named for has in PRECISIONS[known]})
    raise UsageError(f"{backend or 'no backend here'} has no {precision}: expected one of {', '.join(available)}")


def _in_order_of_use(backends: list[Backend]) -> list[Backend]:
    """torch last: it is the reference, and what serves works without it."""
    return sorted(backends, key=lambda name: name == "torch")
