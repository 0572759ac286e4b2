"""The measurements as a DICOM Structured Report of template TID 1500; highdicom writes it."""

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.seg import Segmentation
from highdicom.sr import (
    AlgorithmIdentification,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.sr.codedict import codes

from ...model.assessment import Assessment
from ...model.tasks import TaskName
from .codes import CT_CHEST, LUNG, PRIVATE_SCHEME, SEGMENTS, SIDES
from .equipment import DEVICE_UID, NAME, RESEARCH_USE, UTF8, Equipment
from .measurements import Measured, of_segments, of_study
from .source import Source

SERIES_NUMBER = 9002


def make_report(
    source: Source, segmentation: Segmentation, assessment: Assessment, equipment: Equipment
) -> ComprehensiveSR:
    """A preliminary, unverified report on the source series: a group of measurements for each segment, and one more
    for the study as a whole.
    """
    series = SourceSeriesForSegmentation(source.images[0].SeriesInstanceUID)
    groups = [
        VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(described.TrackingUID, described.TrackingID),
            referenced_segment=ReferencedSegment(
                segmentation.SOPClassUID, segmentation.SOPInstanceUID, described.SegmentNumber, source_series=series
            ),
            finding_type=segment.kind,
            finding_category=segment.category,
            finding_sites=[FindingSite(segment.site)],
            algorithm_id=_algorithm(segment.task, equipment),
            measurements=[_measurement(each) for each in measured],
        )
        for segment, described, measured in zip(
            SEGMENTS, segmentation.SegmentSequence, of_segments(assessment), strict=True
        )
    ]
    whole = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(hd.UID(), f"{NAME} study"),
        finding_type=LUNG,
        algorithm_id=_algorithm("classification", equipment),
        finding_sites=[FindingSite(LUNG)],
        measurements=[_measurement(each) for each in of_study(assessment)],
    )
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(equipment)),
        procedure_reported=CT_CHEST,
        imaging_measurements=[*groups, whole],
        title=codes.DCM.ImagingMeasurementReport,
    )
    content[0].ContentSequence.append(
        TextContentItem(codes.DCM.Comment, RESEARCH_USE, relationship_type=RelationshipTypeValues.CONTAINS)
    )
    return ComprehensiveSR(
        evidence=[*source.images, segmentation],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=NAME,
        is_complete=True,
        is_final=False,
        is_verified=False,
        manufacturer_model_name=NAME,
        software_versions=equipment.version,
        device_serial_number=equipment.serial_number,
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        coding_schemes=[CodingSchemeIdentificationItem(PRIVATE_SCHEME, name=NAME)],
        series_description=f"{NAME} measurements, research use only",
        specific_character_set=UTF8,
    )


def _observer(equipment: Equipment) -> ObserverContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=DEVICE_UID, name=NAME, manufacturer_name=NAME, model_name=NAME, serial_number=equipment.serial_number
    )
    return ObserverContext(codes.DCM.Device, device)


def _measurement(measured: Measured) -> Measurement:
    sites = [FindingSite(LUNG, SIDES[measured.side])] if measured.side else None
    return Measurement(
        name=measured.name,
        value=round(measured.value, 6),
        unit=measured.unit,
        method=measured.method,
        finding_sites=sites,
    )


def _algorithm(task: TaskName, equipment: Equipment) -> AlgorithmIdentification:
    parameters = [f"{name}={value}" for name, value in equipment.parameters(task).items()]
    return AlgorithmIdentification(equipment.algorithm(task), equipment.version, parameters)
