"""The masks as a DICOM Segmentation of four segments; highdicom writes it."""

from typing import Any

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
    SegmentsOverlapValues,
)
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from ...model import scratch
from ...model.findings import Decisions
from .codes import SEGMENTS, Segment
from .equipment import NAME, RESEARCH_USE, UTF8, Equipment
from .source import Source

#: Behind any number that a scanner gives.
SERIES_NUMBER = 9001


def make_segmentation(source: Source, decisions: Decisions, equipment: Equipment) -> Segmentation:
    """A BINARY Segmentation in the frame of reference of the source, a frame for each slice that a segment lies on.

    The masks' pixels are the source's, slice for slice, in whatever order or orientation it was stored.
    """
    masks = scratch.empty((*decisions.lung_mask.shape, len(SEGMENTS)), np.uint8)
    for place, segment in enumerate(SEGMENTS):
        masks[..., place] = segment.mask(decisions)
    masks = source.in_order(masks)
    return _LeanSegmentation(
        source_images=source.images,
        pixel_array=masks,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe(number, segment, equipment) for number, segment in enumerate(SEGMENTS, start=1)
        ],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=equipment.version,
        device_serial_number=equipment.serial_number,
        content_label="LUNGS_LESIONS",
        content_description=RESEARCH_USE,
        content_creator_name=f"{NAME}^",
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        # Where nothing was found at all, the frames are what says so.
        omit_empty_frames=bool(masks.any()),
        series_description=f"{NAME} segmentation, research use only",
        specific_character_set=UTF8,
    )


class _LeanSegmentation(Segmentation):
    """highdicom sums the whole stack in 64 bits to see whether segments overlap: 32 times the size of a mask."""

    @classmethod
    def _check_and_cast_pixel_array(
        cls, pixel_array: Any, *_: object, **__: object
    ) -> tuple[NDArray[np.uint8], SegmentsOverlapValues]:
        overlap = any((frame.sum(axis=-1, dtype=np.uint8) > 1).any() for frame in pixel_array)
        return pixel_array, SegmentsOverlapValues.YES if overlap else SegmentsOverlapValues.NO


def _describe(number: int, segment: Segment, equipment: Equipment) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=segment.category,
        segmented_property_type=segment.kind,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=equipment.algorithm(segment.task),
            family=codes.DCM.ArtificialIntelligence,
            version=equipment.version,
            source=NAME,
            parameters=equipment.parameters(segment.task),
        ),
        tracking_uid=hd.UID(),
        tracking_id=f"{NAME} {segment.label}",
        anatomic_regions=[segment.site],
        display_color=CIELabColor.from_rgb(*segment.colour),
    )
