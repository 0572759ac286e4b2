"""8-bit images with a window, and the many that are not such."""

import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from coronanet.model.errors import UsageError
from coronanet.model.readers import NAMED_WINDOWS, Reading, find_inputs, parse_window
from coronanet.model.readers.images import read_image
from numpy.typing import NDArray

LUNG = NAMED_WINDOWS["lung"]


def ramp() -> NDArray[np.uint8]:
    return np.tile(np.arange(256, dtype=np.uint8), (40, 1))


def save(path: Path, pixels: NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_image(path, LUNG)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_greys_become_the_window_linearly(tmp_path: Path) -> None:
    study = read_image(save(tmp_path / "slice.png", ramp()), parse_window("-1350 150"))
    assert study.image.dtype == np.int16
    assert study.image.shape == (1, 40, 256)
    assert (study.image[0, 0, 0], study.image[0, 0, 255]) == (-1350, 150)
    assert np.abs(study.image[0, 0] - np.linspace(-1350, 150, 256)).max() <= 0.5
    assert study.window_hu == (-1350.0, 150.0)
    assert (study.kind, study.name, study.spacing_mm, study.affine) == ("image", "slice", None, None)


def test_an_image_without_a_window_is_refused_with_the_option_that_mends_it(tmp_path: Path) -> None:
    save(tmp_path / "slice.png", ramp())
    with pytest.raises(UsageError, match="--window -1350 150"):
        [found.open(Reading()).complete() for found in find_inputs(tmp_path / "slice.png")]


def test_grey_stored_as_colour_is_grey(tmp_path: Path) -> None:
    grey: NDArray[Any] = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8), (0, 0), 3)
    png = read_image(save(tmp_path / "a.png", np.dstack([grey] * 3)), LUNG)
    np.testing.assert_array_equal(png.image, read_image(save(tmp_path / "b.png", grey), LUNG).image)
    jpeg = read_image(save(tmp_path / "c.jpg", np.dstack([grey] * 3)), LUNG)
    assert np.abs(jpeg.image.astype(int) - png.image).max() < 100


def test_opaque_alpha_is_read_and_transparency_is_refused(tmp_path: Path) -> None:
    pixels = np.dstack([ramp()] * 3 + [np.full_like(ramp(), 255)])
    assert read_image(save(tmp_path / "opaque.png", pixels), LUNG).image.shape == (1, 40, 256)
    pixels[0, 0, 3] = 10
    assert "transparent" in refusal(save(tmp_path / "clear.png", pixels))


def test_colour_is_refused(tmp_path: Path) -> None:
    pixels = np.dstack([ramp()] * 3)
    cv2.circle(pixels, (60, 20), 6, (0, 0, 255), -1)
    assert "colour image" in refusal(save(tmp_path / "arrow.png", pixels))
    assert "colour image" in refusal(save(tmp_path / "arrow.jpg", pixels))


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    assert "16-bit" in refusal(save(tmp_path / "deep.png", ramp().astype(np.uint16) * 257))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.2, 0.7, 0.99])
def test_a_truncated_image_is_refused_in_silence(
    tmp_path: Path, suffix: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    path = save(tmp_path / f"cut{suffix}", noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "damaged or truncated" in refusal(path)
    assert capfd.readouterr().err == ""


def test_a_flipped_byte_in_a_png_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "slice.png", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_a_header_that_claims_a_huge_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "bomb.jpg", ramp())
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert "too large" in refusal(path)


def test_the_first_header_of_a_png_counts(tmp_path: Path) -> None:
    path = save(tmp_path / "bomb.png", ramp())
    data = path.read_bytes()
    huge = b"IHDR" + b"\0\0\xff\xff" * 2 + data[24:29]
    path.write_bytes(data[:8] + data[8:12] + huge + zlib.crc32(huge).to_bytes(4, "big") + data[8:])
    assert "too large" in refusal(path)


def test_a_text_file_called_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("hello")
    assert "neither PNG nor JPEG" in refusal(tmp_path / "x.png")
