"""A synthetic data set in the layout of the real ones, so that training is tested where no data is."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from coronanet.model.phantom import make_labelled_phantom

VOLUMES = ("1", "2", "4", "9")


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
