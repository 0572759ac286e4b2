"""Volumes on disk: arrays like others, in the memory of a few slices."""

import os
from pathlib import Path

import numpy as np
import pytest
from coronanet.engines.machine import STATUS
from coronanet.model import scratch
from coronanet.model.errors import UsageError

SLICE = (256, 1024)


def resident_bytes() -> int:
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def test_a_small_volume_is_an_ordinary_array_and_a_large_one_keeps_what_it_is_given() -> None:
    assert scratch.empty((4, 8, 8), np.int16).base is None
    large = scratch.empty((40, *SLICE), np.uint8)
    for index in range(len(large)):
        large[index] = index
    scratch.release(large, large[3:5], large.T)
    assert [int(plane[0, 0]) for plane in large] == list(range(40))
    assert (large[7] == 7).all()


def test_a_large_volume_is_written_and_read_in_the_memory_of_a_few_slices() -> None:
    volume = scratch.empty((400, *SLICE), np.uint8)
    start = resident_bytes()
    most = 0
    for index, (plane,) in enumerate(scratch.planes(volume)):
        plane[:] = index % 251
        most = max(most, resident_bytes() - start)
    sums = scratch.map_planes(lambda index, plane: (index, int(plane[0, 0]), resident_bytes() - start), volume)
    assert [(index, value) for index, value, _ in sums] == [(index, index % 251) for index in range(400)]
    most = max(most, *(taken for _, _, taken in sums))
    assert most < volume.nbytes / 4


def test_nothing_of_it_can_be_found_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    volume = scratch.empty((40, *SLICE), np.uint8)
    assert list(tmp_path.iterdir()) == []
    files = [os.readlink(f"/proc/self/map_files/{name}") for name in os.listdir("/proc/self/map_files")]
    assert any(file.startswith(str(tmp_path)) and file.endswith("(deleted)") for file in files)
    del volume


def test_no_room_is_said_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError, match=r"no room for 10 MiB of slices \(No space left on device\): set TMPDIR"):
        scratch.empty((10, 1024, 1024), np.uint8)
