"""Several engines as one: answers in the order of the questions, whoever was faster."""

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from coronanet.engines.base import EngineBase, Tensors, TensorSpec
from coronanet.engines.machine import available_cores
from coronanet.engines.predictor import Choice
from coronanet.engines.streams import MOST_STREAMS, EngineStreams, slices_a_call, streams_of
from coronanet.model.errors import UsageError
from numpy.typing import NDArray


class Slow(EngineBase):
    """Answers with what it was asked, after a while, and notices when two threads use it."""

    def __init__(self) -> None:
        spec = TensorSpec("x", "int16", (-1,))
        super().__init__((spec,), (spec,), 4)
        self.threads: set[int] = set()
        self.asked = 0
        self.closed = False

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        self.threads.add(threading.get_ident())
        self.asked += 1
        time.sleep(random.uniform(0, 0.01))
        if feeds["x"][0] == 13:
            raise UsageError("not this one")
        return {"x": feeds["x"].copy()}

    def close(self) -> None:
        self.closed = True


def feeds(*numbers: int) -> Iterator[Tensors]:
    return ({"x": np.array([number], np.int16)} for number in numbers)


def test_answers_come_in_order_and_each_engine_keeps_its_thread() -> None:
    engines = [Slow(), Slow(), Slow()]
    with EngineStreams(engines) as streams:
        assert [int(answer["x"][0]) for answer in streams.infer_each(feeds(*range(20, 80)))] == list(range(20, 80))
        assert int(streams.infer({"x": np.array([5], np.int16)})["x"][0]) == 5
    assert sum(engine.asked for engine in engines) == 61
    assert all(len(engine.threads) == 1 for engine in engines)
    assert all(engine.closed for engine in engines)


def test_questions_are_taken_as_engines_come_free() -> None:
    taken: list[int] = []

    def questions() -> Iterator[Tensors]:
        for number in range(100):
            taken.append(number)
            yield {"x": np.array([number], np.int16)}

    with EngineStreams([Slow(), Slow()]) as streams:
        answers = streams.infer_each(questions())
        next(answers)
        assert len(taken) == 4
        answers.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator


def test_what_an_engine_refuses_is_raised_in_its_place() -> None:
    with EngineStreams([Slow(), Slow()]) as streams:
        answers = streams.infer_each(feeds(1, 2, 13, 4, 5, 6))
        assert [int(next(answers)["x"][0]) for _ in range(2)] == [1, 2]
        with pytest.raises(UsageError, match="not this one"):
            next(answers)
        assert [int(answer["x"][0]) for answer in streams.infer_each(feeds(7, 8))] == [7, 8]


def test_cores_are_shared_by_streams_unless_the_choice_says_otherwise() -> None:
    cores = min(available_cores(), MOST_STREAMS)
    assert streams_of({"classification": Choice("openvino"), "lung_segmentation": Choice("onnxruntime")}) == cores
    assert streams_of({"classification": Choice("openvino", threads=1)}) == 1
    assert streams_of({"classification": Choice("openvino"), "lung_segmentation": Choice("torch")}) == 1
    assert streams_of({"classification": Choice("tensorrt", "fp16")}) == 1


def test_streams_take_no_more_than_they_may() -> None:
    assert EngineStreams([Slow(), Slow()]).max_batch == 4
    assert EngineStreams([Slow(), Slow()], most=1).max_batch == 1


def test_large_slices_go_alone() -> None:
    assert slices_a_call(512 * 512 * 2) == 2
    assert slices_a_call(4096 * 4096 * 2) == 1
    assert slices_a_call(2**40) == 1
