"""What many tests need: really exported bundles, a real Triton server, and real slices where the data is."""

import csv
import fcntl
import os

# Read when torch is imported, here and in every process that a test starts: threads that wait for each other sleep.
# By default they spin, and a network takes ten times as long where servers, or another job, use the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from coronanet.benchmarks.untrained import write_source
from coronanet.engines import ranking, slices
from coronanet.engines.bundle import CARD, MANIFEST, WEIGHTS, Bundle, Precision
from coronanet.engines.cuda_memory import Device, find_device
from coronanet.engines.places import HOME_VARIABLE, ROOT, data_home
from coronanet.engines.predictor import Choice
from coronanet.engines.ranking import choose, machine
from coronanet.engines.slices import GateSlices, gate_slices, phantom_slices
from coronanet.export import ranges, shipped
from coronanet.export.options import Wanted
from coronanet.export.pipeline import export_bundle
from coronanet.export.plan_target import plan_target
from coronanet.export.shipped import PRETRAINED, provide_bundles
from coronanet.export.to_tensorrt import build_plan
from coronanet.model.card import Card, Geometry, Network
from coronanet.model.phantom import make_labelled_phantom, make_phantom
from coronanet.model.study import Study
from coronanet.model.tasks import TASK_NAMES, TASKS, Task, TaskName
from coronanet.model.weights import save_weights
from coronanet.serving.addresses import ANY_PORTS
from coronanet.serving.repository import fill_repository
from coronanet.serving.server import TritonServer
from pydicom import dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from torch import Tensor, nn

VOLUMES = ("1", "2", "4", "9")
#: The gates of the tests look at fewer slices than those of a user's export: as many as they need for a verdict, of
#: which eight must tell the truth.
FEW_SLICES: dict[TaskName, tuple[int, int, int]] = {
    "classification": (8, 20, 0),
    "binary_segmentation": (4, 6, 0),
    "multiclass_segmentation": (8, 3, 1),
    "lung_segmentation": (0, 12, 0),
}
FEW_PREFLIGHT = 2
#: Tests of a real server, which they share.
SERVED = ROOT / "tests" / "serving"
SERVER_FIXTURES = {"triton_server", "repository"}
#: Asks for the tests that are marked ``long`` too.
LONG = "CORONANET_LONG"
#: How often they time each way to run a network.
FEW_ROUNDS = 3


@pytest.hookimpl(tryfirst=True)  # before the one of xdist, which reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where `make test` runs two processes: what starts servers stays in one, and so does each other file.

    A test that asks for the shared server only as it runs says so with a mark of its own: a second one takes 5 GB.
    What is marked ``long`` is for those who ask for it.
    """
    for item in items:
        if item.get_closest_marker("long") is not None and not os.environ.get(LONG):
            item.add_marker(pytest.mark.skip(reason=f"takes long and tells little more: set {LONG}=1"))
        if item.get_closest_marker("xdist_group") is not None:
            continue
        is_served = SERVED in item.path.parents or SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("servers" if is_served else item.path.stem))


@contextmanager
def _alone(home: Path) -> Generator[None]:
    """One process at a time makes what is kept in ``home``; the other finds it there."""
    with (home / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Bundles and measurements of the tests never touch the user's own.

    Kept between runs for as long as everything that makes a bundle is the same, since an export takes a while.
    """
    digest = hashlib.sha256(json.dumps([machine(), FEW_SLICES, FEW_PREFLIGHT, FEW_ROUNDS], sort_keys=True).encode())
    for folder in ("model", "engines", "export"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    assert request.config.cache is not None
    home = request.config.cache.mkdir(f"home-{digest.hexdigest()[:12]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(home))
        patch.setattr(slices, "COUNTS", FEW_SLICES)
        patch.setattr(ranges, "PREFLIGHT_SLICES", FEW_PREFLIGHT)
        patch.setattr(ranking, "ROUNDS", FEW_ROUNDS)
        # Its search for nodes to keep takes minutes; tests/export has int8 of what ships.
        patch.setattr(shipped, "wants_int8", lambda: False)
        yield home


@pytest.fixture(scope="session")
def bundles(own_home: Path) -> dict[TaskName, Bundle]:
    """The weights that ship, exported with fp16 through every gate."""
    with _alone(own_home):
        return provide_bundles(None)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Card and weights of a small U-Net for lungs that has learnt nothing: a whole export of it takes two seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    shipped = Card.load(PRETRAINED / "lung_segmentation" / CARD)
    network = Network(family="unet", parameters={"features": 4})
    card = shipped.model_copy(update={"network": network, "geometry": Geometry(height=64, width=64)})
    write_source(card, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """``tiny_source`` as a bundle, in fp32, its parity proved on the phantom. Copy it before you change it."""
    return export_bundle(tiny_source, tmp_path_factory.mktemp("tiny_bundles"), phantom_slices())


class Stand(nn.Module):
    """A network for a task, of one layer."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.task = task
        self.layer = nn.Conv2d(1, task.channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.layer(pixels)
        return logits if self.task.is_segmentation else logits.mean((2, 3))


@pytest.fixture(scope="session")
def small_bundles(
    tiny_source: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> dict[TaskName, Bundle]:
    """``tiny_bundle`` and networks of one layer for the three other tasks, in one folder, for what is true of any."""
    tiny, folder = Card.load(tiny_source / CARD), tmp_path_factory.mktemp("small")
    shutil.copytree(tiny_bundle.path, folder / tiny.task)
    bundles = {tiny.task: Bundle.open(folder / tiny.task)}
    for name in TASK_NAMES:
        if name == tiny.task:
            continue
        task = TASKS[name]
        network = Network(family="own", parameters={})
        threshold = None if task.channels > 1 else 0.5
        update = {"task": name, "labels": task.labels, "threshold": threshold, "network": network}
        source = tmp_path_factory.mktemp("stands")
        (source / CARD).write_text(tiny.model_copy(update=update).to_json(), encoding="utf-8")
        save_weights(Stand(task), source / WEIGHTS)
        wanted = Wanted(builder=lambda _, task=task: Stand(task))
        bundles[name] = export_bundle(source, folder, phantom_slices(), wanted)
    return {name: bundles[name] for name in TASK_NAMES}


@pytest.fixture(scope="session")
def gpu() -> Device:
    """The GPU of this machine."""
    device = find_device()
    if device is None:
        pytest.skip("no NVIDIA GPU can be used here")
    return device


@pytest.fixture(scope="session")
def with_plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Bundle, Precision], Bundle]:
    """Copies a bundle and adds the plan of a precision, built for this machine."""

    def add(bundle: Bundle, precision: Precision) -> Bundle:
        folder = tmp_path_factory.mktemp("planned") / bundle.path.name
        shutil.copytree(bundle.path, folder)
        plan = build_plan(folder, bundle.require("network", precision), plan_target())
        manifest = bundle.manifest.model_copy(update={"files": (*bundle.manifest.files, plan)})
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return Bundle.open(folder)

    return add


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the real CT."""
    folder = data_home(None)
    if folder is None:
        pytest.skip("no real CT: set CORONANET_DATA to the folder of the data sets")
    return folder


@pytest.fixture(scope="session")
def real_slices(data: Path) -> GateSlices:
    """Real slices of training and validation sets, each int16 HU [H, W]."""
    return gate_slices(data, "multiclass_segmentation")


@pytest.fixture(scope="session")
def choices(bundles: dict[TaskName, Bundle], own_home: Path) -> dict[TaskName, Choice]:
    """What `coronanet serve` would run on this machine, with the one thread that two instances leave each other."""
    with _alone(own_home):
        return {name: replace(choice, threads=1) for name, choice in choose(bundles).items()}


@pytest.fixture(scope="session")
def repository(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A filled model repository with every step."""
    folder = tmp_path_factory.mktemp("serving") / "triton_repo"
    fill_repository(bundles, folder, choices)
    return folder


@pytest.fixture(scope="session")
def triton_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The real embedded server with the whole ensemble, on free ports."""
    log = tmp_path_factory.mktemp("triton") / "log"
    with TritonServer(repository, ports=ANY_PORTS, log=log) as server:
        yield server


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """Opens a page in headless Chromium, ``browse(page, *options)``; answers with what the browser logs."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium")
    profiles = iter(range(100))

    def open_page(page: Path, *options: str) -> str:
        command = [
            found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / f'profile-{next(profiles)}'}", "--hide-scrollbars", *options, page.as_uri(),
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr

    return open_page


@pytest.fixture(scope="session")
def synthetic_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four synthetic volumes as Radiopaedia's, volume 4 among them, which is held back."""
    folder = tmp_path_factory.mktemp("data")
    root = folder / "radiopaedia9_medseg2"
    for name in ("images", "lesion", "lung"):
        (root / name).mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for volume in VOLUMES:
        phantom = make_labelled_phantom(size=128, slices=6, seed=int(volume))
        grey = np.clip((phantom.study.image.astype(np.float32) + 1350) * (255 / 1500), 0, 255).astype(np.uint8)
        for z in range(len(grey)):
            stem = f"r{volume}_z{z:03d}"
            kinds = np.where(phantom.lesion_types[z] <= 2, phantom.lesion_types[z], 0).astype(np.uint8)
            cv2.imwrite(str(root / "images" / f"{stem}.jpg"), grey[z])
            cv2.imwrite(str(root / "lesion" / f"{stem}.png"), kinds)
            cv2.imwrite(str(root / "lung" / f"{stem}.png"), phantom.lung_mask[z] * 255)
            source = "exact" if z % 2 and kinds.any() else ("inferred" if kinds.any() else "none")
            rows.append({"file": f"{stem}.png", "volume": volume, "class_source": source})
    with (root / "slices.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["file", "volume", "class_source"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def write_series() -> Callable[..., list[Path]]:
    """Writes a study as a DICOM CT series of single slices, feet to head: ``write_series(folder, study, edit=…)``.

    Of the phantom, where no study is given: six slices of 64 x 64. Further keywords are elements of every slice;
    ``edit`` changes a slice before it is written. The patient is ``Secret^Name``, number ``SECRET-7``, and neither may
    ever be seen where nobody asked for it.
    """

    def write(
        folder: Path,
        study: Study | None = None,
        *,
        edit: Callable[[int, FileDataset], None] = lambda *_: None,
        **fields: Any,
    ) -> list[Path]:
        study = study or small_phantom()
        assert study.spacing_mm is not None
        common: dict[str, Any] = _ct_fields(study) | {
            "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
            "SeriesInstanceUID": generate_uid(),
            "FrameOfReferenceUID": generate_uid(entropy_srcs=["space"]),
        }
        folder.mkdir(parents=True, exist_ok=True)
        paths: list[Path] = []
        for index, image in enumerate(study.image):
            meta = FileMetaDataset()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
            place = [-20.0, -30.0, 100.0 + index * study.spacing_mm[0]]
            own = {"SOPInstanceUID": generate_uid(), "InstanceNumber": index + 1, "ImagePositionPatient": place}
            pixels = {"PixelData": (image + 1024).astype(np.uint16).tobytes()}
            for keyword, value in (common | own | pixels | fields).items():
                setattr(dataset, keyword, value)
            edit(index, dataset)
            meta.MediaStorageSOPClassUID = dataset.SOPClassUID
            meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            paths.append(folder / f"{len(list(folder.iterdir())):04d}")
            dcmwrite(paths[-1], dataset, enforce_file_format=True)
        return paths

    return write


@cache
def small_phantom() -> Study:
    return make_phantom(size=64, slices=6)


def _ct_fields(study: Study) -> dict[str, Any]:
    assert study.spacing_mm is not None
    _, rows, columns = study.image.shape
    return {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "Secret^Name",
        "PatientID": "SECRET-7",
        "PatientBirthDate": "19500101",
        "PatientSex": "O",
        "StudyDate": "20201123",
        "StudyTime": "101500",
        "StudyID": "1",
        "AccessionNumber": "SECRET-8",
        "ReferringPhysicianName": "",
        "Manufacturer": "phantom",
        "SeriesNumber": 2,
        "SliceThickness": study.spacing_mm[0],
        "PixelSpacing": list(study.spacing_mm[1:]),
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
