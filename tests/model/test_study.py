"""A study's name is text that every report can hold, whatever the file system says."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from coronanet.model import readers
from coronanet.model.errors import UsageError
from coronanet.model.readers import Unreadable, try_inputs
from coronanet.model.readers.windows import NAMED_WINDOWS
from coronanet.model.study import Study

LATIN_1 = os.fsdecode("café".encode("latin-1"))


def test_a_name_that_is_not_utf_8_becomes_text() -> None:
    study = Study(LATIN_1, np.zeros((1, 4, 4), np.int16), "image")
    assert study.name.encode("utf-8").decode() == "caf\N{REPLACEMENT CHARACTER}"
    assert Unreadable(LATIN_1, f"{LATIN_1} is damaged").reason.startswith("caf\N{REPLACEMENT CHARACTER} ")


def test_one_file_that_cannot_be_opened_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((32, 32), 90, np.uint8))
    looks = readers._is_dicom  # pyright: ignore[reportPrivateUsage]

    def closed(path: Path) -> bool:
        if path.stem == "a":
            raise UsageError(f"cannot read {path}: Permission denied")
        return looks(path)

    monkeypatch.setattr(readers, "_is_dicom", closed)
    found = list(try_inputs([tmp_path], window=NAMED_WINDOWS["lung"]))
    assert [type(each) for each in found] == [Study, Unreadable]
    assert isinstance(found[1], Unreadable)
    assert "Permission denied" in found[1].reason
