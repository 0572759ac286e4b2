"""The gates of the TensorRT plans that this machine can run, at export and again at `coronanet verify`."""

from ..engines.bundle import Bundle, FileRecord
from ..engines.load_errors import first_line
from ..engines.non_inferiority import MARGIN, judge
from ..engines.open import PRECISIONS
from ..engines.parity import Reference, compare
from ..engines.plans import choose_plan, find_hosts, plans_of
from ..engines.predictor import Choice, Predictor
from ..engines.proofs import Proof, write_proof
from ..model.errors import UsageError
from .to_tensorrt import NOT_RUN


def prove_plans(bundle: Bundle, reference: Reference, *, margin: float = MARGIN) -> dict[str, FileRecord]:
    """The record of the plan of each precision that runs here, by its path, with what parity and non-inferiority find.

    What parity finds is remembered too; a plan that fails to run has the verdict not run, with the reason. Plans for
    other machines, and all of them where no GPU is, are not in the answer: nothing was found about them.
    """
    found: dict[str, FileRecord] = {}
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
        others = tuple(gate for gate in record.gates if gate.gate != "non_inferiority")
        try:
            with Predictor.open(bundle, Choice("tensorrt", precision), unproved=True) as candidate:
                comparison = compare("network", reference, candidate, precision)
        except Exception as error:  # a plan that cannot be run, for whatever reason, says nothing of the others
            evidence = NOT_RUN.model_copy(update={"reason": first_line(error)})
            found[record.path] = record.model_copy(update={"evidence": evidence, "gates": others})
            continue
        judged = () if precision == "fp32" else (judge(reference, comparison.decisions, margin),)
        update = {"evidence": comparison.evidence, "gates": (*others, *judged)}
        found[record.path] = record.model_copy(update=update)
        write_proof(bundle, record, host, Proof(evidence=comparison.evidence, non_inferiority=next(iter(judged), None)))
    return found
