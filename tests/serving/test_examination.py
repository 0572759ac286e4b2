"""Well, busy or sick, and which model is to blame, from what a server answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pytest
from coronanet.engines.base import Tensors
from coronanet.serving.canary import Canary, GatedModel, ServedStep
from coronanet.serving.examination import Finding, examine
from coronanet.serving.probe import Kind, Probe, ProbeError
from numpy.typing import NDArray

IMAGE = np.zeros((1, 16, 16), np.int16)
CANARY = Canary(
    steps=(
        ServedStep("preprocess", {"image": "image"}, {"pixels": "pixels"}),
        ServedStep("lungs", {"pixels": "pixels"}, {"logits": "logits_lungs"}),
        ServedStep("decide", {"logits": "logits_lungs", "image": "image"}, {"lung_mask": "lung_mask"}),
    ),
    tensors={
        "image": IMAGE,
        "pixels": np.full((1, 1, 16, 16), 0.5, np.float32),
        "logits_lungs": np.full((1, 1, 16, 16), 3, np.float32),
        "lung_mask": np.ones((1, 16, 16), np.uint8),
    },
)

#: What a busy server's counters show.
WORKING = ("preprocess", "lungs", "decide", "coronanet")


@dataclass
class Server:
    """Answers rightly but for ``fails``: what asking a model ends in.

    ``works``: models that finish other requests while one is asked; from so many ``looks`` at the counters on, all do.
    """

    fails: dict[str, Kind] = field(default_factory=dict)
    works: tuple[str, ...] = ()
    statistics: Kind | None = None
    looks: int | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*WORKING, "coronanet_triage"), 0))

    def ask(self, model: str, feeds: Tensors, outputs: Sequence[str], timeout_s: float) -> dict[str, NDArray[Any]]:
        for name in self.works:
            self.counts[name] += 1
        kind = self.fails.get(model)
        if kind == "wrong":
            return {name: np.zeros((1, 16, 16), np.uint8) for name in outputs}
        if kind is not None:
            raise ProbeError(kind, f"{model} is {kind}")
        right = {"pixels": "pixels", "logits": "logits_lungs", "lung_mask": "lung_mask"}
        return {name: np.asarray(CANARY.tensors[right[name]]) for name in outputs}

    def answered(self, timeout_s: float) -> dict[str, int]:
        if self.statistics:
            raise ProbeError(self.statistics, "no statistics")
        if self.looks is not None:
            self.looks -= 1
            self.counts = {name: count + (self.looks < 0) for name, count in self.counts.items()}
        return dict(self.counts)


GATED = replace(CANARY, gated=GatedModel("lung_mask", (), 1))


def _examine(server: Server, canary: Canary = CANARY, step_s: float = 0.1) -> Finding:
    return examine(canary, cast(Probe, server), canary_s=0.1, step_s=step_s)


def test_the_outputs_of_the_ensemble_are_what_no_step_reads() -> None:
    assert CANARY.outputs == ("lung_mask",)


def test_a_right_answer_is_well() -> None:
    assert _examine(Server()).verdict == "well"


@pytest.mark.parametrize("failing", [{}, {"coronanet": "late"}, {"coronanet": "unreachable"}])
def test_a_finding_has_the_counts_of_before_the_canary(failing: dict[str, Kind]) -> None:
    """What a process did since is not held against it; of a server that is sick nothing is held against a process."""
    server = Server(failing, works=WORKING)
    before = dict(server.counts)
    finding = _examine(server)
    assert server.counts != before
    assert finding.answered == ({} if finding.verdict == "sick" else before)


def test_a_late_canary_is_busy_while_every_model_finishes_requests() -> None:
    finding = _examine(Server({"coronanet": "late"}, works=WORKING))
    assert (finding.verdict, finding.models) == ("busy", ())


def test_a_model_that_stood_still_but_answers_by_itself_is_not_blamed() -> None:
    finding = _examine(Server({"coronanet": "late"}, works=("preprocess", "coronanet")))
    assert (finding.verdict, finding.models) == ("busy", ())


@pytest.mark.parametrize("kind", ["late", "full"])
def test_an_ensemble_that_answers_nobody_though_every_model_does_is_the_server_s_fault(kind: Kind) -> None:
    finding = _examine(Server({"coronanet": kind}, works=("preprocess", "lungs", "decide")))
    assert (finding.verdict, finding.models, finding.reason) == ("sick", (), f"coronanet is {kind}")


def test_a_model_that_finishes_nothing_while_it_is_asked_has_stalled() -> None:
    finding = _examine(Server({"coronanet": "late", "lungs": "late"}, works=("preprocess",)))
    assert (finding.verdict, finding.models) == ("sick", ("lungs",))
    assert finding.reason == "lungs: it answered no request in 0.1 s"


def test_a_model_that_is_late_itself_but_works_is_busy() -> None:
    server = Server({"coronanet": "late", "lungs": "late", "decide": "late"}, works=("preprocess", "lungs"))
    assert _examine(server).models == ("decide",)


def test_a_server_that_refuses_because_it_is_full_is_busy() -> None:
    full: dict[str, Kind] = {"coronanet": "full", "preprocess": "full"}
    finding = _examine(Server(full, works=WORKING))
    assert (finding.verdict, finding.models) == ("busy", ())
    finding = _examine(Server({"coronanet": "full"}, works=("preprocess", "coronanet")))
    assert (finding.verdict, finding.models) == ("busy", ())


def test_a_model_whose_queue_timed_out_but_that_works_is_busy() -> None:
    finding = _examine(Server({"coronanet": "late", "lungs": "full"}, works=("preprocess",), looks=5), step_s=30)
    assert (finding.verdict, finding.models) == ("busy", ())


def test_a_model_that_is_full_and_finishes_nothing_has_stalled() -> None:
    finding = _examine(Server({"coronanet": "full", "preprocess": "full"}))
    assert (finding.verdict, finding.models) == ("sick", ("preprocess",))
    assert finding.reason == "preprocess: it answered no request in 0.1 s"


@pytest.mark.parametrize("kind", ["wrong", "refused"])
def test_a_wrong_answer_and_an_error_are_the_model_s_that_gives_them(kind: Kind) -> None:
    finding = _examine(Server({"coronanet": kind, "decide": kind}, works=("preprocess", "lungs", "decide")))
    assert (finding.verdict, finding.models) == ("sick", ("decide",))


def test_an_ensemble_that_is_wrong_with_models_that_are_right_is_the_server_s_fault() -> None:
    finding = _examine(Server({"coronanet": "wrong"}))
    assert (finding.verdict, finding.models) == ("sick", ())
    assert finding.reason == "lung_mask is wrong: 256 pixels have another label, expected at most 64"


@pytest.mark.parametrize("server", [Server({"coronanet": "unreachable"}), Server(statistics="late")])
def test_a_server_that_does_not_speak_at_all_is_sick_as_a_whole(server: Server) -> None:
    finding = _examine(server)
    assert (finding.verdict, finding.models) == ("sick", ())


@pytest.mark.parametrize("kind", ["wrong", "refused"])
def test_the_gated_model_is_to_blame_where_the_others_are_well(kind: Kind) -> None:
    assert _examine(Server(), GATED).verdict == "well"
    assert _examine(Server({"coronanet_triage": kind})).verdict == "well", "not every repository has it"
    finding = _examine(Server({"coronanet_triage": kind}), GATED)
    assert (finding.verdict, finding.models) == ("sick", ("coronanet_triage",))
    both = Server({"coronanet": kind, "decide": kind, "coronanet_triage": kind})
    assert _examine(both, GATED).models == ("decide",)


def test_a_gated_model_that_is_late_but_works_is_busy() -> None:
    working = Server({"coronanet_triage": "late"}, works=(*WORKING, "coronanet_triage"))
    assert _examine(working, GATED).verdict == "busy"
    still = Server({"coronanet_triage": "late"}, works=WORKING)
    assert _examine(still, GATED).models == ("coronanet_triage",)


@dataclass
class Filling(Server):
    """Its ensemble answers once, and then it is full."""

    def ask(self, model: str, feeds: Tensors, outputs: Sequence[str], timeout_s: float) -> dict[str, NDArray[Any]]:
        answer = super().ask(model, feeds, outputs, timeout_s)
        self.fails["coronanet"] = "full"
        return answer


@pytest.mark.parametrize("kind", ["late", "full"])
@pytest.mark.parametrize("server", [Server, Filling])
def test_the_gated_model_is_not_to_blame_for_an_ensemble_that_has_no_room(server: type[Server], kind: Kind) -> None:
    fails: dict[str, Kind] = {"coronanet_triage": kind} if server is Filling else dict.fromkeys(GATED.whole, kind)
    finding = _examine(server(fails, works=WORKING), GATED)
    assert (finding.verdict, finding.models) == ("busy", ())
