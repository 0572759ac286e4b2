"""The page of results, rendered from the test ledger: no number is measured here, and none stands in two places."""

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ...engines.bundle import WEIGHTS, hash_file
from ...model.tasks import TASK_NAMES, TASKS
from ..files import write_whole
from .ledger import AS_GIVEN, MEDSEG_TEST, UCSD_TEST, Row

NOT_A_DEVICE = "Research software, not a medical device; not for diagnosis or treatment decisions."
#: Somebody else's networks, by the folder that their maps come in, and where they were described.
PUBLISHED = {
    "binary_UNet": "U-Net [Fan 2020]",
    "binary_UNetpp": "U-Net++ [Fan 2020]",
    "binary_InfNet": "Inf-Net [Fan 2020]",
    "binary_SemiInfNet": "Semi-Inf-Net [Fan 2020]",
    "ggo_SemiInfNet_UNet": "Semi-Inf-Net with U-Net [Fan 2020]",
    "con_SemiInfNet_UNet": "Semi-Inf-Net with U-Net [Fan 2020]",
    "ggo_FCN8s": "FCN8s [Fan 2020]",
    "con_FCN8s": "FCN8s [Fan 2020]",
    "ggo_DeepLabV3p_s16": "DeepLabV3+, stride 16 [Fan 2020]",
    "con_DeepLabV3p_s16": "DeepLabV3+, stride 16 [Fan 2020]",
}
#: What each score is called, the one to sort by first; lower is better for those that end in error or loss.
SCORES = {
    "dice": "Dice",
    "dice_pooled": "pooled Dice",
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "iou": "IoU",
    "f1": "F1",
    "accuracy": "accuracy",
    "rand_error": "Rand error",
    "adjusted_rand_loss": "adjusted Rand loss",
    "calibration_error": "calibration error",
    "called_infected": "slices called infected",
    "highest_probability": "highest probability",
    "percent_of_lung": "% of lung pixels called lesion",
}
TESTS = (MEDSEG_TEST, UCSD_TEST)

HEAD = f"""# Results

**{NOT_A_DEVICE}** The data sets are small and public; a score here says nothing of a patient.

This page is written by `coronanet evaluate --page docs/results.md` from [the test ledger](test-ledger.csv), and a \
test holds it to that. Every number is a row there, put in by `coronanet evaluate --final`, which is the only way to \
the test splits. The number behind a name leads to [the command and the hash](#where-each-number-comes-from).

In brackets behind a score stands its 95 % bootstrap interval: 2000 resamples of patients where at least ten are \
known, of images otherwise (each table says which). An interval over the images of two patients says how even they \
are, and nothing of other patients.

- **Dice, sensitivity, IoU, Rand error, adjusted Rand loss**: each image's own, averaged over the images that show the \
label in truth. **Specificity**: the same over all images. **Pooled Dice**: one Dice over the pixels of all images.
- **Rand error** is 1 - Rand index, the formula of the Corona-Net talk; **adjusted Rand loss** is \
1 - (adjusted Rand index + 1) / 2, what its author's code computes. Lower is better.
- **All labels**: the Dice of an image is the mean over the labels it shows; the Rand scores are of the whole label map.
- **Calibration error**: expected calibration error over ten bins of equal width.
- **Bold**: the weights that ship. Others of ours are here because every score on a test split is told.
- Probability maps of others are decided at one half, ours at the card's operating point.
"""
QUOTED = """## Quoted, not scored here

Measured by others, on other splits or with other code; for orientation only.

| what | score | source |
|---|---|---|
| two radiologists against each other | Dice .70 | Bartoli et al. 2022 |
| Corona-Net, binary, its own split of MedSeg nr. 2 | Dice .7965, Rand loss .0766 | the Corona-Net talk |
| Corona-Net, 3-class, its own split of MedSeg nr. 1 | Dice .6160, Rand loss .1985 | the Corona-Net talk |
| Self-Trans, DenseNet-169 from ImageNet weights, UCSD COVID-CT test | F1 .85, AUC .94 | He et al. 2020 |
"""
SOURCES = """## Data sets

For research and non-commercial use; none of it is part of this project. By convention grey 0 to 255 is read as -1350 \
to 150 HU where the true window is not recorded.

- **MedSeg test**: the 48 test slices of COVID-SemiSeg, from the MedSeg COVID-19 CT segmentation dataset \
(medicalsegmentation.com/covid19, 10.6084/m9.figshare.13521488), split and published maps by Fan et al., *Inf-Net*, \
IEEE TMI 2020, 39(8):2626, 10.1109/TMI.2020.2996645 [Fan 2020].
- **Radiopaedia**: MedSeg segmentation dataset nr. 2, nine Radiopaedia cases (CC BY-NC-SA), \
10.6084/m9.figshare.13521509.
- **PleThora**: Kiser et al., Med Phys 2020, on NSCLC-Radiomics (Aerts et al. 2014, CC BY-NC). Lung cancer, not \
COVID-19.
- **UCSD COVID-CT**: Zhao et al., arXiv:2003.13865; He et al., medRxiv 2020.04.13.20063941. Figures from papers, with \
known shortcuts: read a score beside that of the baseline that sees borders and file formats alone.
- **COVID-CT-MD**: Afshar et al., Sci Data 2021, 8:121, 10.1038/s41597-021-00900-3; two volumes, every sixth slice.
"""


class Source(NamedTuple):
    """Where a row comes from."""

    command: str
    date_utc: str
    sha256: str
    card_sha256: str


def source_of(row: Row) -> Source:
    return Source(row.command, row.date_utc, row.sha256, row.card_sha256)


def write_page(path: Path, rows: Sequence[Row], pretrained: Path) -> None:
    """Write the page of a ledger's rows, whole or not at all; ``pretrained`` holds the weights that ship."""
    write_whole(path, render(rows, shipped(pretrained)).encode())


def shipped(pretrained: Path) -> frozenset[str]:
    """The hashes of the weights that ship."""
    return frozenset(hash_file(path) for path in pretrained.glob(f"*/{WEIGHTS}"))


def render(rows: Sequence[Row], shipped: Collection[str]) -> str:
    """The page as Markdown; the weights whose hashes are ``shipped`` stand out."""
    latest = newest(rows)
    sources = list(dict.fromkeys(source_of(row) for row in latest))
    given = [row for row in latest if row.view == AS_GIVEN]
    tests = [_section(f"## {name}", [row for row in given if row.set == name], sources, shipped) for name in TESTS]
    others = [row for row in given if row.set not in TESTS]
    held_back = _section("## Groups held back from training, and whole studies", others, sources, shipped)
    views = [_views(latest, sources, shipped)] if len(given) < len(latest) else []
    return "\n".join([HEAD, *filter(None, [*tests, held_back]), *views, QUOTED, _provenance(sources), SOURCES])


def newest(rows: Iterable[Row]) -> list[Row]:
    """What was scored last of each subject on each label, set and view, in the order of the ledger."""
    last: dict[tuple[str, ...], Row] = {}
    for row in rows:
        # The hash of a baseline is its code's, which may be written anew and say the same.
        sha256 = "" if row.kind == "baseline" else row.sha256
        subject = (sha256, row.card_sha256, row.kind, row.name, row.runs_on)
        last[(*subject, row.task, row.set, row.label, row.view)] = row
    return list(last.values())


def _section(title: str, rows: Sequence[Row], sources: Sequence[Source], shipped: Collection[str]) -> str:
    tables = [_table(list(group), sources, shipped) for _, group in groupby(sorted(rows, key=_question), key=_question)]
    return "\n".join([title, "", *tables]) if tables else ""


def _question(row: Row) -> tuple[str, int, str, int, str]:
    """Rows with one question stand in one table; tasks and labels come in their own order, ``all labels`` last."""
    for place, name in enumerate(TASK_NAMES):
        if name == row.task:
            labels = TASKS[name].labels
            return row.set, place, row.task, labels.index(row.label) if row.label in labels else len(labels), row.label
    return row.set, len(TASK_NAMES), row.task, 0, row.label


def _table(rows: Sequence[Row], sources: Sequence[Source], shipped: Collection[str]) -> str:
    """The subjects of one question, the best first."""
    first = rows[0]
    names = [name for name in SCORES if any(name in row.scores for row in rows)]
    ranked = sorted(rows, key=lambda row: -row.scores.get(names[0], 0.0)) if names else list(rows)
    shown = "" if first.showing is None else f", {first.showing} of them show it"
    drawn = f"; intervals over {first.resampled}" if first.resampled else ""
    lines = [
        f"### {first.set}: {first.label} ({first.task.replace('_', ' ')})",
        "",
        f"{first.images} images{shown}{drawn}.",
        "",
        _line(["", *(SCORES[name] for name in names)]),
        _line(["---"] * (len(names) + 1)),
        *(_line([_who(row, sources, shipped), *(_score(row, name) for name in names)]) for row in ranked),
        "",
    ]
    return "\n".join(lines)


def _views(rows: Sequence[Row], sources: Sequence[Source], shipped: Collection[str]) -> str:
    """How the first score of each question changes when the same slices are shown otherwise."""
    lines = [
        "## The same slices, shown otherwise",
        "",
        "What each view gains or loses against the slices as given. The other window is a lung window saved in 8 bits "
        "and read back.",
        "",
        _line(["", "set", "label", "score", "as given", "view", "change"]),
        _line(["---"] * 7),
    ]
    given = {_subject(row): row for row in rows if row.view == AS_GIVEN}
    for row in rows:
        if row.view == AS_GIVEN or _subject(row) not in given:
            continue
        before = given[_subject(row)]
        name = next(name for name in SCORES if name in before.scores and name in row.scores)
        change = row.scores[name] - before.scores[name]
        cells = [_who(row, sources, shipped), row.set, row.label, SCORES[name], f"{before.scores[name]:.3f}"]
        lines.append(_line([*cells, row.view, f"{change:+.3f}"]))
    return "\n".join([*lines, ""])


def _subject(row: Row) -> tuple[str, ...]:
    return row.sha256, row.card_sha256, row.kind, row.runs_on, row.task, row.set, row.label


def _who(row: Row, sources: Sequence[Source], shipped: Collection[str]) -> str:
    match row.kind:
        case "maps":
            name = PUBLISHED.get(row.name, row.name)
        case "baseline":
            name = f"baseline: {row.name}"
        case _:
            ours = f"Corona-Net {row.name}"
            name = f"**{ours}**, {row.runs_on}" if row.sha256 in shipped else f"{ours}, does not ship, {row.runs_on}"
    return f"{name} ({sources.index(source_of(row)) + 1})"


def _score(row: Row, name: str) -> str:
    if name not in row.scores:
        return ""
    value = row.scores[name]
    if name == "called_infected":
        return f"{value:.0f} of {row.images}"
    text = f"{value:.3f}"
    if name not in row.intervals:
        return text
    low, high = row.intervals[name]
    return f"{text} ({low:.3f} to {high:.3f})"


def _provenance(sources: Sequence[Source]) -> str:
    lines = [
        "## Where each number comes from",
        "",
        "The hash is that of `weights.safetensors`; of a folder of maps, what `sha256sum * | sha256sum` prints in it; "
        "of a baseline, that of its code. The card holds the operating point.",
        "",
        _line(["", "command", "scored (UTC)", "SHA-256", "SHA-256 of the card"]),
        _line(["---"] * 5),
    ]
    for number, source in enumerate(sources, start=1):
        card = f"`{source.card_sha256}`" if source.card_sha256 else ""
        lines.append(_line([str(number), f"`{source.command}`", source.date_utc, f"`{source.sha256}`", card]))
    return "\n".join([*lines, ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
