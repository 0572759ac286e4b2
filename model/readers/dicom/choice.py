"""Which of the CT series of a study is read, and why; the others are named, without anything of the patient's."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import UsageError
from .frames import Frame, read_frames
from .headers import Header, short_hash
from .stacks import Stack, make_stack, make_stacks

#: What a chest measures from the lungs' tips to their bases; a longer scan does not show more of them.
CHEST_MM = 250.0
#: Body parts that a chest CT is filed under (DICOM PS3.16, CID 4).
_CHEST = ("CHEST", "THORAX", "LUNG", "TORAX", "CHESTABD", "CAP")
_COMPUTED = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "AVERAGE", "MPR", "VOLUME", "PROJECTION IMAGE", "CSA MIP"}

#: A criterion: what is better is larger; and what the best one is called.
_Criterion = tuple[Callable[[Stack], float], str]


def choose_stack(headers: Sequence[Header], origin: Path, wanted: str | None) -> tuple[Stack, list[str]]:
    """The stack to read, and notes that say why and what was left out.

    Args:
        headers: of every DICOM file, CT or not.
        origin: the file or folder, for messages.
        wanted: a series by its number here, by its hash or by its SeriesInstanceUID; None leaves the choice.

    Raises:
        UsageError: none is axial CT, ``wanted`` is none of them, or none can be read.
    """
    stacks, broken = _stacks(headers, origin)
    axial = [stack for stack in stacks if stack.is_axial]
    if wanted is not None:
        chosen, why = _named(wanted, stacks, origin), "it was asked for"
    elif axial:
        chosen, why = _best(axial)
    else:
        chosen, why = stacks[0], ""
    if not chosen.is_axial:
        raise UsageError(f"{origin} is not axial (a coronal or sagittal view): expected the axial CT series")
    notes: list[str] = []
    if len(stacks) > 1:
        left = ", ".join(f"{stack}{'' if stack.is_axial else ', not axial'}" for stack in stacks if stack is not chosen)
        notes.append(f"{len(stacks)} CT series lie here; {chosen} was read because {why}; left out: {left}")
    notes += [f"Series {name} cannot be read: {reason}" for name, reason in broken]
    return chosen, [*notes, *_other_kinds(headers), *chosen.notes]


def _stacks(headers: Sequence[Header], origin: Path) -> tuple[list[Stack], list[tuple[str, str]]]:
    """The stacks of every CT series, numbered, and the series that are none, each with the reason."""
    series: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        if header.is_ct_image and not header.is_localizer:
            series[header.series].append(header)
    if not series:
        kinds = ", ".join(sorted({header.kind for header in headers}))
        raise UsageError(f"{origin} is not axial CT (it holds {kinds}): expected a chest CT series")
    parts: list[list[Frame]] = []
    failed: list[tuple[int, Header, UsageError]] = []
    for members in series.values():
        try:
            parts += make_stacks([frame for header in members for frame in read_frames(header)])
        except UsageError as error:
            failed.append((len(members), members[0], error))
    if not parts:
        raise max(failed, key=lambda entry: entry[0])[2]
    parts.sort(key=lambda part: (_order(part[0].header), -len(part)))
    stacks = [make_stack(number, part) for number, part in enumerate(parts, start=1)]
    broken = [
        (short_hash(header.series), str(error).replace(f"{header.path} ", "one of its files "))
        for _, header, error in sorted(failed, key=lambda entry: _order(entry[1]))
    ]
    return stacks, broken


def _order(header: Header) -> tuple[float, str]:
    return (float("inf") if header.series_number is None else header.series_number, header.series)


def _best(stacks: Sequence[Stack]) -> tuple[Stack, str]:
    """The best by the first criterion that tells them apart, and that criterion in words."""
    left, why = list(stacks), "it is the only axial one"
    for value, words in _criteria(stacks):
        best = max(value(stack) for stack in left)
        if len(kept := [stack for stack in left if value(stack) >= best]) < len(left):
            left, why = kept, words
        if len(left) == 1:
            break
    return left[0], why


def _criteria(stacks: Sequence[Stack]) -> list[_Criterion]:
    covered = max(_covered(stack) for stack in stacks)
    return [
        (lambda stack: len(stack.frames) > 1, "it is more than a single slice"),
        (lambda stack: not _COMPUTED.intersection(stack.header.image_type), "it is no projection or reformat"),
        (_is_chest, "it is filed as chest"),
        (lambda stack: _covered(stack) >= 0.9 * covered, "it covers the most of the chest"),
        (lambda stack: -round((stack.between_mm or 99.0) * 2), "its slices are the thinnest"),
        (lambda stack: stack.has_lung_kernel, "its kernel is one for lungs"),
        (lambda stack: "ORIGINAL" in stack.header.image_type, "it is original, not derived"),
        (lambda stack: len(stack.frames), "it has the most slices"),
        (lambda stack: -stack.number, "it comes first"),
    ]


def _covered(stack: Stack) -> float:
    return min(stack.extent_mm, CHEST_MM)


def _is_chest(stack: Stack) -> int:
    """1 for a chest, 0 where the header says nothing, -1 for another part of the body."""
    part = stack.header.body_part
    return 0 if not part else 1 if any(name in part for name in _CHEST) else -1


def _named(wanted: str, stacks: Sequence[Stack], origin: Path) -> Stack:
    found = [
        stack for stack in stacks if wanted in (str(stack.number), stack.header.series) or wanted.lower() == stack.hash
    ]
    if len(found) > 1:
        # One series that is several stacks: by its hash or UID its best is meant, by its number another one.
        return _best([stack for stack in found if stack.is_axial] or found)[0]
    if found:
        return found[0]
    listed = ", ".join(map(str, stacks))
    # A UID leads to the patient, so it is not said again.
    shown = "of that UID" if "." in wanted else wanted[:16]
    raise UsageError(f"{origin} has no series {shown}: expected the number or the hash of one of {listed}")


def _other_kinds(headers: Sequence[Header]) -> list[str]:
    left = Counter(header.kind for header in headers if header.is_localizer or not header.is_ct_image)
    return ["Left out: " + ", ".join(f"{count} {kind}" for kind, count in sorted(left.items()))] if left else []
