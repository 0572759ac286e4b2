"""Who made the objects: this program, with the networks that it ran, for research."""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from ...engines.machine import NOT_INSTALLED, installed_version
from ...model.errors import UsageError
from ...model.tasks import TaskName
from ..overlay import DISCLAIMER
from ..report import ModelRecord

NAME = "Corona-Net"
#: The patient's name is written anew, whatever alphabet the source had it in.
UTF8 = "ISO_IR 192"
#: Stands in every series description, and in the content of each object.
RESEARCH_USE = DISCLAIMER
#: This program as an observer; always the same, whoever runs it (RFC 4122 version 5, in DICOM's form of PS3.5 B.2).
DEVICE_UID = UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, 'https://github.com/chinglamchoi/Corona-Net').int}")


@dataclass(frozen=True)
class Equipment:
    """The program's version and the networks' records."""

    version: str
    models: tuple[ModelRecord, ...]

    @classmethod
    def of(cls, models: Sequence[ModelRecord]) -> "Equipment":
        return cls(installed_version("coronanet") or NOT_INSTALLED, tuple(models))

    @property
    def serial_number(self) -> str:
        """One hash over those of all networks: two objects with the same one were made by the same weights.

        A server that is not `coronanet serve` does not tell its hashes; then it is unknown.
        """
        if any(model.bundle_sha256 is None for model in self.models):
            return "unknown (served)"
        text = "\n".join(f"{model.task} {model.bundle_sha256}" for model in self.models)
        return hashlib.sha256(text.encode()).hexdigest()

    def algorithm(self, task: TaskName) -> str:
        return f"{NAME} {task.replace('_', ' ')}"

    def parameters(self, task: TaskName) -> dict[str, str]:
        """The bundle and how it ran, as far as a server tells.

        Raises:
            UsageError: there is no record of that network.
        """
        for model in self.models:
            if model.task == task:
                bundle = model.bundle_sha256 or "unknown (served)"
                return {"bundle_sha256": bundle, "backend": model.backend, "precision": model.precision or "unknown"}
        raise UsageError(f"no record of the network for {task}: expected one of every network that ran")
