"""The ``test/`` splits: MedSeg's 48 slices and UCSD COVID-CT's 203 images.

Nothing but ``coronanet evaluate --final`` comes here (a test holds that), and what is scored on them goes into the test
ledger. They never train, select or calibrate anything.
"""

from pathlib import Path

from ...engines.datasets import LUNG_WINDOW
from ...model.errors import UsageError
from ...model.readers.images import read_image
from ...model.tasks import TaskName
from .ledger import MEDSEG_TEST
from .sets import Case, CaseSet, read_grey, ucsd_set


def final_sets(task: TaskName, folder: Path) -> tuple[CaseSet, ...]:
    """The test splits that tell something about a task; the lungs have none.

    Raises:
        UsageError: the task has a test split and it is not in ``folder``, or a picture cannot be decoded.
    """
    match task:
        case "binary_segmentation":
            return (CaseSet(MEDSEG_TEST, task, (1,), _medseg(folder, "binary")),)
        case "multiclass_segmentation":
            return (CaseSet(MEDSEG_TEST, task, (1, 2), _medseg(folder, "multiclass")),)
        case "classification":
            images = ucsd_set(folder, "test", final=True)
            if not images.cases:
                raise UsageError(f"no UCSD COVID-CT in {folder}: --data must be the folder that holds the data sets")
            return (images,)
        case "lung_segmentation":
            return ()


def _medseg(folder: Path, kind: str) -> tuple[Case, ...]:
    """Every slice a group of its own: which patient it shows is not recorded."""
    root = folder / "medseg98_covid_semiseg" / "test"
    images = sorted((root / "images").glob("*.jpg"), key=lambda path: int(path.stem))
    if not images:
        raise UsageError(f"no images in {root / 'images'}: --data must be the folder that holds the data sets")
    cases: list[Case] = []
    for path in images:
        truth = read_grey(root / kind / f"{path.stem}.png")
        labels = (truth > 127).astype(truth.dtype) if kind == "binary" else truth
        cases.append(Case(path, path.stem, read_image(path, LUNG_WINDOW).image[0], labels))
    return tuple(cases)
