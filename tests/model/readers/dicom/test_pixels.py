"""Every transfer syntax of a CT decodes to the same pixels, and no header makes a decoder take memory."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coronanet.model.errors import UsageError
from coronanet.model.phantom import make_phantom
from coronanet.model.readers import Reading, find_inputs
from coronanet.model.readers.dicom import files, pixels
from coronanet.model.readers.dicom.codestream import codestream_size
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

SeriesWriter = Callable[..., list[Path]]


def image(folder: Path) -> NDArray[np.int16]:
    (study,) = (found.open(Reading()).complete() for found in find_inputs(folder))
    return study.image


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        [found.open(Reading()).complete() for found in find_inputs(path)]
    assert "\n" not in str(caught.value)
    assert "ecret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_pixels_of_either_endianness_and_deflated_files_are_read(
    tmp_path: Path, write_series: SeriesWriter, syntax: UID
) -> None:
    def edit(_: int, dataset: FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        if not syntax.is_little_endian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()

    write_series(tmp_path / "chest", edit=edit)
    np.testing.assert_array_equal(image(tmp_path / "chest"), make_phantom(size=64, slices=6).image)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_pixels_are_read(tmp_path: Path, write_series: SeriesWriter, syntax: UID) -> None:
    for path in write_series(tmp_path / "chest"):
        dataset = dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(image(tmp_path / "chest"), make_phantom(size=64, slices=6).image)


@pytest.mark.parametrize(
    ("name", "syntax"), [("JPEGLosslessProcess14_1", JPEGLosslessSV1), ("JPEG2000Lossless", JPEG2000Lossless)]
)
def test_lossless_jpeg_is_read(tmp_path: Path, write_series: SeriesWriter, name: str, syntax: UID) -> None:
    gdcm = pytest.importorskip("gdcm")
    for path in write_series(tmp_path / "chest"):
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()
        assert dcmread(path).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(image(tmp_path / "chest"), make_phantom(size=64, slices=6).image)


def test_a_real_slice_is_read() -> None:
    path = get_testdata_file("CT_small.dcm", download=False)
    assert isinstance(path, str)
    hounsfield = image(Path(path))
    dataset = dcmread(path)
    np.testing.assert_array_equal(hounsfield[0], dataset.pixel_array + int(dataset.RescaleIntercept))


def test_a_deflated_file_that_inflates_without_end_is_refused_in_little_memory(
    tmp_path: Path, write_series: SeriesWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path, *_) = write_series(tmp_path / "x")
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    _bomb(path, dcmread(path), inflated_mib=256)
    monkeypatch.setattr(files, "MAX_HEADER", 2**20)
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "holds more bytes than its header announces" in message
    assert peak < 32 * 2**20


def _bomb(path: Path, dataset: FileDataset, inflated_mib: int) -> None:
    """A private element after the pixels that is hundreds of MiB of zeros, in a file of a few hundred KiB."""
    intact = path.read_bytes()
    start = 144 + int(dataset.file_meta.FileMetaInformationGroupLength)
    content = zlib.decompress(intact[start:], -zlib.MAX_WBITS)
    with path.open("wb") as file:
        file.write(intact[:start])
        deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        file.write(deflater.compress(content + struct.pack("<HH2sHL", 0x7FE1, 0x0010, b"OB", 0, inflated_mib * 2**20)))
        for _ in range(inflated_mib):
            file.write(deflater.compress(b"\0" * 2**20))
        file.write(deflater.flush())
    assert path.stat().st_size < 2**20


def test_a_file_much_larger_than_its_header_says_is_refused(
    tmp_path: Path, write_series: SeriesWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path, *_) = write_series(tmp_path / "x")
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 2**20)
    monkeypatch.setattr(files, "MAX_HEADER", 2**19)
    assert "holds more bytes than its header announces" in refusal(path)


def test_a_frame_that_announces_another_size_than_the_header_is_never_decoded(
    tmp_path: Path, write_series: SeriesWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path, *_) = write_series(tmp_path / "x")
    dataset = dcmread(path)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    (stream,) = generate_frames(dataset.PixelData, number_of_frames=1)
    at = stream.index(b"\xff\xf7") + 5
    dataset.PixelData = encapsulate([stream[:at] + struct.pack(">HH", 60000, 60000) + stream[at + 4 :]])
    dataset.save_as(path)
    monkeypatch.setattr(pixels, "iter_pixels", lambda *_, **__: pytest.fail("decoded"))
    assert "decodes to [60000, 60000] pixels" in refusal(path)


@pytest.mark.parametrize(
    ("syntax", "remedy"), [(HTJ2KLossless, "pip install pylibjpeg pylibjpeg-openjpeg"), (MPEG2MPML, "uncompressed")]
)
def test_a_syntax_without_a_decoder_is_one_line_that_says_what_is_missing(
    tmp_path: Path, write_series: SeriesWriter, syntax: UID, remedy: str
) -> None:
    (path, *_) = write_series(tmp_path / "x")
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([b"\0" * 64])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    message = refusal(path)
    assert syntax.name in message
    assert remedy in message


def test_the_size_of_a_codestream_is_read_from_its_own_header() -> None:
    jpeg = b"\xff\xd8\xff\xe0\x00\x04xx\xff\xc3\x00\x0b\x10\x00\x40\x00\x80"
    assert codestream_size(jpeg) == (64, 128)
    siz = struct.pack(">HHHHIIII", 0xFF4F, 0xFF51, 47, 0, 130, 70, 2, 6)
    assert codestream_size(siz) == (64, 128)
    assert codestream_size(b"\0\0\0\x0cjP  \r\n\x87\n" + siz) == (64, 128)
    assert codestream_size(b"\xff\xd8\xff\xd9") is None
    assert codestream_size(b"") is None
