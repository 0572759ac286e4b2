"""What a failed question means, from the words and the status that a server, or gRPC itself, gives."""

import socket
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from coronanet.engines.triton_wire import message
from coronanet.serving.probe import Kind, Probe, ProbeError
from tritonclient.grpc import service_pb2_grpc

LATE_S = 2.0


class _Refusing(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every request with ``failure``; without one it is too late."""

    failure: tuple[grpc.StatusCode, str] | None = None

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        if self.failure is None:
            time.sleep(LATE_S)
        context.abort(*(self.failure or (grpc.StatusCode.INTERNAL, "nobody hears this")))

    def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        answer = message("ModelStatisticsResponse")()
        model = answer.model_stats.add(name="lung_segmentation")
        model.inference_stats.success.count, model.inference_stats.fail.count = 3, 5
        model.inference_stats.cache_hit.count = 1
        return answer


@pytest.fixture
def refusing() -> Iterator[tuple[_Refusing, str]]:
    server, servicer = grpc.server(futures.ThreadPoolExecutor(2)), _Refusing()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


def _kind(address: str, timeout_s: float) -> Kind:
    probe = Probe(address)
    try:
        with pytest.raises(ProbeError) as failed:
            probe.ask("coronanet", {"image": np.zeros((1, 4, 4), np.int16)}, ["lung_mask"], timeout_s)
        return failed.value.kind
    finally:
        probe.close()


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "in ensemble 'coronanet', Exceeds maximum queue size", "full"),
        (grpc.StatusCode.UNAVAILABLE, "in ensemble 'coronanet', Request timeout expired", "full"),
        # Whatever status a model that passes it on gives it.
        (grpc.StatusCode.INTERNAL, "in ensemble 'coronanet', Request timeout expired", "full"),
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'coronanet' is not at ready state", "refused"),
        (grpc.StatusCode.INTERNAL, "Stub process 'lung_segmentation_0_0' is not healthy.", "refused"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "unreachable"),
    ],
)
def test_a_full_queue_is_not_taken_for_a_server_that_is_away(
    refusing: tuple[_Refusing, str], status: grpc.StatusCode, words: str, kind: Kind
) -> None:
    server, address = refusing
    server.failure = (status, words)
    assert _kind(address, 30) == kind


def test_no_answer_in_time_is_late(refusing: tuple[_Refusing, str]) -> None:
    assert _kind(refusing[1], LATE_S / 4) == "late"


def test_what_a_queue_gave_up_and_what_the_cache_answered_is_no_work_of_the_model_behind_it(
    refusing: tuple[_Refusing, str],
) -> None:
    probe = Probe(refusing[1])
    assert probe.answered(30) == {"lung_segmentation": 2}
    probe.close()


def test_nobody_there_is_unreachable() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert _kind(f"127.0.0.1:{held.getsockname()[1]}", 30) == "unreachable"
