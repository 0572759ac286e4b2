"""What a label does not say must not be taught."""

import pytest
import torch
from coronanet.engines.samples import Supervision
from coronanet.training.losses import SUPERVISIONS, binary_loss, dice_loss, partial_label_loss

CONFIDENT = 12.0


def logits_for(*classes: int) -> torch.Tensor:
    """One slice of one row, a pixel a class, decided with confidence."""
    logits = torch.zeros(1, 4, 1, len(classes))
    for column, value in enumerate(classes):
        logits[0, value, 0, column] = CONFIDENT
    return logits


def loss(logits: torch.Tensor, labels: list[int], supervision: Supervision) -> float:
    index = torch.tensor([SUPERVISIONS.index(supervision)])
    return float(partial_label_loss(logits, torch.tensor([[labels]]), index))


@pytest.mark.parametrize(
    ("labels", "supervision", "right", "wrong"),
    [
        ([0, 1, 2], "types", [(0, 1, 2)], [(0, 2, 1), (3, 1, 2), (1, 1, 2)]),
        # Which kind of lesion is not known: ground glass and consolidation are as good as each other.
        ([0, 1, 1], "lesion", [(0, 1, 1), (0, 2, 2), (0, 1, 2)], [(0, 0, 1), (1, 1, 1), (0, 3, 1)]),
        # Other lesions are not labelled: only effusion or not is judged.
        ([0, 0, 1], "effusion", [(0, 0, 3), (1, 2, 3)], [(0, 3, 3), (0, 0, 1)]),
    ],
)
def test_every_decision_that_the_labels_allow_is_free_and_every_other_costs(
    labels: list[int], supervision: Supervision, right: list[tuple[int, ...]], wrong: list[tuple[int, ...]]
) -> None:
    for decision in right:
        assert loss(logits_for(*decision), labels, supervision) == pytest.approx(0, abs=1e-3)
    for decision in wrong:
        assert loss(logits_for(*decision), labels, supervision) > 0.1


def test_every_supervision_weighs_as_much_as_its_share_of_the_batch() -> None:
    wrong, right = logits_for(1, 0), logits_for(1, 3)
    labels = torch.tensor([[[0, 1]]])
    lesion, effusion = (torch.tensor([SUPERVISIONS.index(name)]) for name in ("lesion", "effusion"))
    alone = float(partial_label_loss(wrong, labels, lesion))
    assert alone > 1
    mixed = partial_label_loss(
        torch.cat([wrong, right, right]), labels.expand(3, -1, -1), torch.cat([lesion, effusion, effusion])
    )
    assert float(mixed) == pytest.approx(alone / 3, rel=1e-3)


def test_a_pixel_that_is_wrong_for_certain_still_teaches() -> None:
    logits = (logits_for(3, 1) * 5).requires_grad_()
    partial_label_loss(logits, torch.tensor([[[0, 1]]]), torch.tensor([SUPERVISIONS.index("types")])).backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 0, 0, 0]) < -0.1


def test_the_binary_loss_falls_to_zero_on_the_truth() -> None:
    labels = torch.tensor([[[0, 1], [1, 0]]])
    logits = (labels.float()[:, None] * 2 - 1) * CONFIDENT
    assert float(binary_loss(logits, labels)) == pytest.approx(0, abs=1e-3)
    assert float(binary_loss(-logits, labels)) > 1


def test_the_dice_loss_of_certain_masks_is_one_minus_dice() -> None:
    one, other = torch.zeros(1, 40, 40), torch.zeros(1, 40, 40)
    one[:, :20], other[:, 10:30] = 1, 1
    assert float(dice_loss(one, other)) == pytest.approx(0.5, abs=1e-3)


def test_half_of_the_dice_loss_counts_a_small_lesion_like_a_large_one() -> None:
    truth = torch.zeros(2, 100, 100)
    truth[0, :50], truth[1, :5] = 1, 1
    found = truth.clone()
    found[1] = 0
    pooled = 2 * 5000 / (5000 + 5500)
    assert float(dice_loss(found, truth)) == pytest.approx(1 - (pooled + 0.5) / 2, abs=2e-3)


def test_where_no_image_shows_the_label_less_of_it_costs_less() -> None:
    truth = torch.zeros(2, 20, 20)
    costs = [float(dice_loss(torch.full((2, 20, 20), probability), truth)) for probability in (0.0, 0.001, 0.5)]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    assert costs == sorted(costs)
