"""Volumes and percentages of chests of known size, however they were scanned and stored."""

import itertools
import math
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from coronanet.model.assessment import assess
from coronanet.model.findings import Decisions
from coronanet.model.lungs import keep_lungs
from coronanet.model.readers.nifti import read_nifti
from coronanet.model.severity import (
    LEAST_SLICES,
    SURROGATE_LOBES,
    Region,
    Severity,
    cut_off,
    surrogate_score,
)
from coronanet.model.study import Study
from numpy.typing import NDArray

Point = tuple[float, float, float]

BODY, AIR, LUNG, EMPHYSEMA, GLASS, SOLID, FLUID = 40, -1000, -850, -980, -600, 10, 5


def measure(study: Study, decisions: Decisions) -> Severity:
    return assess(study, decisions).severity


@dataclass(frozen=True)
class Ellipsoid:
    """Centre and half axes in RAS millimetres: x to the patient's right, y to the front, z to the head."""

    centre: Point
    half: Point
    hu: int

    @property
    def ml(self) -> float:
        return 4 / 3 * math.pi * math.prod(self.half) / 1000


RIGHT_LUNG = Ellipsoid((72, 0, 0), (54, 72, 110), LUNG)
LEFT_LUNG = Ellipsoid((-70, 4, 0), (48, 66, 110), LUNG)
#: In the lower third of the right lung, the upper half of the left, and the right's middle.
GROUND_GLASS = Ellipsoid((72, 0, -70), (24, 32, 28), GLASS)
CONSOLIDATION = Ellipsoid((-70, 4, 50), (20, 24, 30), SOLID)
BULLA = Ellipsoid((72, 0, 10), (26, 34, 24), EMPHYSEMA)
#: Behind the left lung.
EFFUSION = Ellipsoid((-60, -86, -40), (30, 12, 40), FLUID)
CHEST = (RIGHT_LUNG, LEFT_LUNG, GROUND_GLASS, CONSOLIDATION, BULLA, EFFUSION)


def volume(spacing_mm: Point, *, turn: NDArray[np.float64] | None = None) -> nib.Nifti1Image:
    """The chest in RAS, voxels of ``spacing_mm`` (x, y, z), on a grid turned by ``turn`` (a rotation ``[3, 3]``)."""
    size = np.ceil(np.array([330, 240, 250]) / spacing_mm).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) * np.array(spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((size - 1) / 2)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(grid @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    hu = np.where((x / 160) ** 2 + (y / 115) ** 2 < 1, BODY, AIR).astype(np.int16)
    for part in CHEST:
        (cx, cy, cz), (rx, ry, rz) = part.centre, part.half
        hu[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1] = part.hu
    return nib.Nifti1Image(hu, affine)


def truth(study: Study) -> Decisions:
    """What perfect networks would say."""
    hu = study.image
    types = (1 * (hu == GLASS) + 2 * (hu == SOLID) + 3 * (hu == FLUID)).astype(np.uint8)
    lung = np.isin(hu, (LUNG, EMPHYSEMA, GLASS, SOLID)).astype(np.uint8)
    return Decisions(np.full(len(hu), 0.9, np.float32), (types > 0).astype(np.uint8), types, lung)


ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)
]


def scan(folder: Path, image: nib.Nifti1Image) -> Study:
    nib.save(image, folder / "chest.nii")
    return read_nifti(folder / "chest.nii")


def check(severity: Severity) -> None:
    """Within 1 % of what the ellipsoids hold."""

    def near(value: float) -> object:
        return pytest.approx(value, rel=0.01)

    assert severity.sides is not None
    right, left, whole = severity.sides["right"], severity.sides["left"], severity.whole
    assert whole.lung_ml == near(RIGHT_LUNG.ml + LEFT_LUNG.ml)
    assert (right.lung_ml, left.lung_ml) == (near(RIGHT_LUNG.ml), near(LEFT_LUNG.ml))
    assert whole.lesion_ml == near(GROUND_GLASS.ml + CONSOLIDATION.ml + EFFUSION.ml)
    assert whole.by_kind_ml == {
        "ground_glass": near(GROUND_GLASS.ml),
        "consolidation": near(CONSOLIDATION.ml),
        "pleural_effusion": near(EFFUSION.ml),
    }
    assert severity.effusion_ml == near(EFFUSION.ml)
    assert right.by_kind_ml == {"ground_glass": near(GROUND_GLASS.ml), "consolidation": 0, "pleural_effusion": 0}
    assert left.by_kind_ml == {
        "ground_glass": 0, "consolidation": near(CONSOLIDATION.ml), "pleural_effusion": near(EFFUSION.ml)
    }  # fmt: skip
    lungs = RIGHT_LUNG.ml + LEFT_LUNG.ml
    assert whole.percent_involved == near(100 * (GROUND_GLASS.ml + CONSOLIDATION.ml) / lungs)
    assert right.percent_involved == near(100 * GROUND_GLASS.ml / RIGHT_LUNG.ml)
    assert left.percent_by_kind == {"ground_glass": 0, "consolidation": near(100 * CONSOLIDATION.ml / LEFT_LUNG.ml)}
    aerated = lungs - GROUND_GLASS.ml - CONSOLIDATION.ml - BULLA.ml
    assert whole.percent_well_aerated == near(100 * aerated / lungs)
    assert severity.surrogate_score is not None
    assert {part.part for part in severity.surrogate_score.parts if part.points} == {
        "right lower third",
        "left upper half",
    }
    assert severity.cannot_be_said == ()


@pytest.fixture(scope="module")
def anisotropic() -> nib.Nifti1Image:
    return volume((1.8, 2.1, 4.0))


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_every_one_of_the_48_orientations_measures_the_same(
    tmp_path: Path, anisotropic: nib.Nifti1Image, axes: str
) -> None:
    assert len(ORIENTATIONS) == 48
    target = nib.orientations.axcodes2ornt(tuple(axes))
    turn = nib.orientations.ornt_transform(nib.io_orientation(anisotropic.affine), target)
    study = scan(tmp_path, anisotropic.as_reoriented(turn.astype(int).tolist()))
    check(measure(study, truth(study)))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.2, 2.4, 6.0), (2.0, 1.4, 9.0)])
def test_any_spacing_measures_the_same(tmp_path: Path, spacing: Point) -> None:
    study = scan(tmp_path, volume(spacing))
    check(measure(study, truth(study)))


@pytest.mark.parametrize(("about_z", "about_x"), [(12, 0), (0, 10), (-9, 8)])
def test_a_turned_grid_measures_the_same(tmp_path: Path, about_z: float, about_x: float) -> None:
    a, b = np.radians((about_z, about_x))
    z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    study = scan(tmp_path, volume((1.6, 1.6, 3.0), turn=np.asarray(z @ x, np.float64)))
    check(measure(study, truth(study)))


def test_gaps_between_slices_are_bridged_whatever_the_usual_spacing(tmp_path: Path) -> None:
    study = scan(tmp_path, volume((1.8, 2.1, 2.0)))
    places = 2.0 * np.arange(len(study.image))
    kept = np.array([index for index in range(len(places)) if index % 7 not in (2, 3) and index not in (60, 61)])
    gappy = replace(study, image=study.image[kept], positions_mm=places[kept])
    check(measure(gappy, truth(gappy)))
    evenly = measure(replace(gappy, positions_mm=None), truth(gappy)).whole.lung_ml
    assert evenly is not None
    assert evenly < 0.8 * (RIGHT_LUNG.ml + LEFT_LUNG.ml)


def test_zones_are_thirds_of_the_lungs_height_and_add_up(tmp_path: Path) -> None:
    study = scan(tmp_path, volume((1.8, 2.1, 2.0)))
    severity = measure(study, truth(study))
    assert severity.zones is not None
    zones = severity.zones
    # Of an ellipsoid, the outer thirds hold 7/27 each and the middle one 13/27.
    lungs = RIGHT_LUNG.ml + LEFT_LUNG.ml
    assert zones["upper"].lung_ml == pytest.approx(lungs * 7 / 27, rel=0.01)
    assert zones["middle"].lung_ml == pytest.approx(lungs * 13 / 27, rel=0.01)
    assert zones["lower"].lung_ml == pytest.approx(lungs * 7 / 27, rel=0.01)
    assert sum(volume_of(zone.lung_ml) for zone in zones.values()) == pytest.approx(severity.whole.lung_ml)
    assert sum(volume_of(zone.lesion_ml) for zone in zones.values()) == pytest.approx(severity.whole.lesion_ml)


def volume_of(value: float | None) -> float:
    assert value is not None
    return value


def test_lungs_that_touch_are_divided_at_the_midline(tmp_path: Path) -> None:
    study = scan(tmp_path, volume((1.8, 2.1, 4.0)))
    given = truth(study)
    _, rows, columns = study.image.shape
    given.lung_mask[:, rows // 2, columns // 2 - 30 : columns // 2 + 30] = 1
    sides = measure(study, given).sides
    assert sides is not None
    assert sides["right"].lung_ml == pytest.approx(RIGHT_LUNG.ml, rel=0.02)
    assert sides["left"].lung_ml == pytest.approx(LEFT_LUNG.ml, rel=0.02)


def an_image(slices: int = 1) -> tuple[Study, Decisions]:
    """Lung of 10 pixels with 4 of lesion a slice, without spacing and orientation."""
    image = np.full((slices, 4, 5), -800, np.int16)
    lung, lesion, types = (np.zeros(image.shape, np.uint8) for _ in range(3))
    lung[:, :2] = 1
    lesion[:, 0, :4] = 1
    types[:, 0, :2], types[:, 0, 2], types[:, 3, 0] = 1, 2, 3
    image[:, 0, 0] = -400
    decisions = Decisions(np.full(slices, 0.5, np.float32), lesion, types, lung)
    return Study("x", image, "image", window_hu=(-1350, 150)), decisions


def test_an_image_has_percentages_but_no_volumes_sides_zones_and_score() -> None:
    severity = measure(*an_image())
    assert severity.whole == Region(None, None, None, 40.0, {"ground_glass": 20.0, "consolidation": 10.0}, 90.0)
    assert (severity.sides, severity.zones, severity.surrogate_score, severity.effusion_ml) == (None,) * 4
    assert severity.incomplete == f"1 slice with lung, at least {LEAST_SLICES} are needed"
    assert severity.cannot_be_said == ("the input does not record which side is right", severity.incomplete)


def test_a_nifti_whose_codes_are_zero_does_not_say_which_side_is_right(
    tmp_path: Path, anisotropic: nib.Nifti1Image
) -> None:
    image = nib.Nifti1Image(np.asanyarray(anisotropic.dataobj), anisotropic.affine)
    image.set_qform(image.affine, 0)
    image.set_sform(image.affine, 0)
    study = scan(tmp_path, image)
    severity = measure(study, truth(study))
    assert severity.sides is None
    assert severity.surrogate_score is None
    assert severity.zones is not None
    assert severity.whole.lung_ml is not None


def test_without_lung_there_is_nothing_to_divide_by() -> None:
    study, decisions = an_image()
    decisions.lung_mask[:] = 0
    whole = measure(study, decisions).whole
    assert (whole.percent_involved, whole.percent_by_kind, whole.percent_well_aerated) == (None, None, None)


@pytest.mark.parametrize(("first", "last", "ends"), [(0, None, ()), (20, None, ("feet",)), (20, -20, ("feet", "head"))])
def test_lungs_that_are_cut_off_have_no_score(
    tmp_path: Path, anisotropic: nib.Nifti1Image, first: int, last: int | None, ends: tuple[str, ...]
) -> None:
    whole = scan(tmp_path, anisotropic)
    study = replace(whole, image=whole.image[first:last])
    decisions = truth(study)
    assert cut_off(np.count_nonzero(decisions.lung_mask, axis=(1, 2))) == ends
    severity = measure(study, decisions)
    assert (severity.surrogate_score is None) is bool(ends)
    assert severity.incomplete == (f"the lungs are cut off towards the {' and the '.join(ends)}" if ends else "")


def test_a_few_voxels_of_lung_are_no_chest(tmp_path: Path, anisotropic: nib.Nifti1Image) -> None:
    study = scan(tmp_path, anisotropic)
    decisions = truth(study)
    decisions.lung_mask[:, :50] = 0
    decisions.lung_mask[:, 54:] = 0
    severity = measure(study, decisions)
    assert severity.surrogate_score is None
    assert severity.incomplete.endswith("ml of lung are not two lungs of an adult")


def test_a_side_without_lung_has_no_score(tmp_path: Path, anisotropic: nib.Nifti1Image) -> None:
    study = scan(tmp_path, anisotropic)
    decisions = truth(study)
    decisions.lung_mask[..., study.image.shape[2] // 2 :] = 0
    severity = measure(study, decisions)
    assert severity.surrogate_score is None
    assert severity.cannot_be_said == tuple(f"no lung was found in the left {half} half" for half in ("upper", "lower"))
    assert severity.sides is not None
    assert severity.sides["left"].percent_involved is None


@pytest.mark.parametrize(
    ("percent", "points"),
    [
        (0, 0),
        (0.4, 0),
        (0.5, 1),
        (4.4, 1),
        (4.5, 2),
        (25.4, 2),
        (25.5, 3),
        (50, 3),
        (51, 4),
        (75.4, 4),
        (76, 5),
        (100, 5),
    ],
)
def test_points_are_the_published_grades_in_whole_percent(percent: float, points: int) -> None:
    score = surrogate_score(dict.fromkeys(SURROGATE_LOBES, percent))
    assert [part.points for part in score.parts] == [points] * 5
    assert score.total == 5 * points
    assert "surrogate" in score.note.lower()


def test_sides_that_no_body_divides_are_not_blamed_on_the_file() -> None:
    lung = np.zeros((8, 20, 20), np.uint8)
    lung[:, 5:15, 2:8] = lung[:, 5:15, 12:18] = 1
    empty = np.zeros_like(lung)
    study = Study("air", np.full(lung.shape, -850, np.int16), "dicom", (5.0, 2.0, 2.0), np.diag([-2.0, -2, 5, 1]))
    found = assess(study, Decisions(np.zeros(8, np.float32), empty, empty.copy(), lung))
    assert found.severity.sides is None
    assert found.severity.cannot_be_said[0].startswith("the image shows no body")
    assert [flag.text for flag in found.quality if flag.name == "sides unknown"] == [found.severity.cannot_be_said[0]]


def striped(slices: int) -> tuple[Study, Decisions]:
    """Many slices of two lungs with lesions, and cloth beside them."""
    image = np.full((slices, 128, 128), 40, np.int16)
    lung, types = (np.zeros(image.shape, np.uint8) for _ in range(2))
    for columns in (slice(20, 50), slice(70, 100)):
        lung[:, 20:100, columns] = 1
        types[:, 30:40, columns] = 1
    lung[-3:, :10, :10] = 1
    affine = np.diag([-2.0, -2, 0.5, 1])
    study = Study("long", image, "dicom", (0.5, 2.0, 2.0), affine)
    return study, Decisions(np.zeros(slices, np.float32), types.copy(), types, lung)


def test_a_long_study_takes_no_memory_of_its_own() -> None:
    study, decisions = striped(1200)

    def peak(count: int) -> int:
        part = replace(study, image=study.image[:count])
        masks: list[NDArray[np.uint8]] = [
            mask[-count:] for mask in (decisions.lesion_mask, decisions.lesion_types, decisions.lung_mask)
        ]
        tracemalloc.start()
        given = Decisions(decisions.infected_probability[:count], *masks)
        assert keep_lungs(given).components == (1 if count == 150 else 0)
        measure(part, given)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    short, long = peak(150), peak(1200)
    # A record of every slice, whose image takes 32 kB.
    assert long - short < (1200 - 150) * 3000
    assert long < study.image.nbytes / 10
