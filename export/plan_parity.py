"""Parity of the TensorRT plans that this machine can run, at export and again at `coronanet verify`."""

from ..engines.bundle import Bundle, Evidence
from ..engines.open import PRECISIONS
from ..engines.parity import Reference, compare
from ..engines.plans import choose_plan, find_hosts, plans_of
from ..engines.predictor import Choice, Predictor
from ..engines.proofs import write_proof
from ..model.errors import UsageError


def prove_plans(bundle: Bundle, reference: Reference) -> dict[str, Evidence]:
    """What parity finds about the plan of each precision that runs here, by the plan's path; it is remembered too.

    Plans for other machines, and all of them where no GPU is, are not in the answer: nothing was found about them.
    """
    found: dict[str, Evidence] = {}
    if not plans_of(bundle.manifest):
        return found
    try:
        hosts = find_hosts()
    except UsageError:
        return found
    for precision in PRECISIONS["tensorrt"]:
        try:
            record, host = choose_plan(bundle, precision, hosts)
        except UsageError:
            continue
        with Predictor.open(bundle, Choice("tensorrt", precision), unproved=True) as candidate:
            found[record.path] = compare("network", reference, candidate)
        write_proof(record, host, found[record.path])
    return found
