"""TensorRT's log as one line of ours; every message that we quote was seen, or is known of TensorRT's forum."""

from pathlib import Path

import pytest
from coronanet.engines.tensorrt_errors import NodeError, explain, failure, parse_failure
from coronanet.model.errors import RefusedError, UsageError

NO_DRIVER = "CUDA driver version is insufficient for CUDA runtime version"
NOISE = f"[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: {NO_DRIVER})"
BUILD = "IBuilder::buildSerializedNetwork: Error Code"


@pytest.mark.parametrize(
    ("message", "anchor"),
    [
        (f"{BUILD} 1: Myelin (Unexpected exception std::bad_alloc In compileGraph at /_src/x.cpp:2)", "out-of-memory"),
        ("Unexpected exception Resource temporarily unavailable", "out-of-memory"),
        ("Error Code 1: Cuda Runtime (out of memory)", "out-of-memory"),
        (f"{BUILD} 1: Myelin (no tactics to implement the operation within workspace limit.)", "out-of-memory"),
        (
            f"{BUILD} 4: API Usage Error (Network has dynamic or shape inputs, but no optimization profile has been "
            "defined. In validate at /_src/optimizer/api/network.cpp:4023)",
            "no-profile",
        ),
        (
            "The engine plan file is not compatible with this version of TensorRT, expecting library version 11.1.0 "
            "got 10.12.0, please rebuild.",
            "plan-version",
        ),
        (
            "The engine plan file is generated on an incompatible device, expecting compute 7.5 got compute 8.6, "
            "please rebuild.",
            "wrong-gpu",
        ),
        ("Serialization assertion plan.header.size == blobSize failed.", "corrupted-file"),
        ("Assertion failed: model->ParseFromCodedStream: Failed to parse the ONNX model.", "corrupted-file"),
        (f"Error Code 1: Cuda Runtime (In ScopedCudaStream (cudaError 35: {NO_DRIVER}))", "no-gpu"),
    ],
)
def test_a_known_message_becomes_its_cause_and_remedy_whatever_follows_it(message: str, anchor: str) -> None:
    for messages in ([message], [message, NOISE]):
        assert explain(messages)[1] == anchor


def test_an_unknown_message_is_given_as_it_is_without_the_place_in_the_library() -> None:
    message = f"{BUILD} 4: API Usage Error (Network must have at least one output. In validate at /_src/a/b.cpp:3810)"
    assert explain([message]) == (f"{BUILD} 4: API Usage Error (Network must have at least one output)", None)
    assert explain([]) == ("TensorRT gave no reason", None)


def test_a_failure_says_what_was_being_done() -> None:
    error = failure("cannot build a.plan", ["std::bad_alloc"])
    assert isinstance(error, UsageError)
    assert str(error).startswith("cannot build a.plan: out of memory: end what else uses it")


def test_every_node_that_the_parser_blames_is_named_up_to_five() -> None:
    errors = [NodeError(f"n{index}", "Det", "UNSUPPORTED_NODE", "false") for index in range(7)]
    error = parse_failure(Path("a.onnx"), errors)
    assert isinstance(error, RefusedError)
    assert "node n0 (Det) is an unsupported operator; node n1 (Det)" in str(error)
    assert "n4" in str(error)
    assert "n5" not in str(error)
    assert "and 2 more" in str(error)


def test_another_fault_of_a_node_is_told_in_the_parsers_words() -> None:
    text = "Invalid Node - a\nITensor::getDimensions: Error Code 4: bad axes"
    assert "node a (Squeeze): ITensor::getDimensions: Error Code 4: bad axes" in str(
        parse_failure(Path("a.onnx"), [NodeError("a", "Squeeze", "INVALID_NODE", text)])
    )
