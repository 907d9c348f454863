"""The teachers' answers in the targets of the experiment beyond the abstract."""

import numpy as np
import pytest
import torch

from prunekit import Data, models
from prunekit.experiments import differential_evolution as experiment

MNIST = "a77a7f3d30998d3b"  # the key of the full data set


@pytest.fixture
def taught(digits, monkeypatch):
    """The experiment's data, made of ten images; and these ten, one of each class."""
    x, y = digits.splits["train"]
    rows = torch.tensor([int((y == c).nonzero()[0]) for c in range(10)])
    few = Data(
        digits.splits | {"train": (x[rows], y[rows])},
        classes=digits.classes, mean=digits.mean, std=digits.std, key=MNIST,
    )  # fmt: skip
    monkeypatch.setattr(experiment, "mnist", lambda **download: few)
    return experiment.taught(), few


def test_targets_are_mixed_from_the_label_and_the_mean_answer_of_three_teachers(taught):
    data, few = taught
    x, targets = data.splits["train"]
    answers = []
    for seed in range(3):
        teacher = models.pretrained("lenet_5", seed).eval()
        with torch.no_grad():
            outputs = teacher(few.normalise(few.splits["train"][0])).double().numpy()
        hot = np.exp(outputs / 2.0)
        answers.append(hot / hot.sum(1, keepdims=True))
    by_hand = 0.3 * np.eye(10) + 0.7 * np.mean(answers, axis=0)
    np.testing.assert_allclose(targets.numpy(), by_hand, atol=1e-6)
    assert not np.allclose(answers[0], answers[1], atol=1e-3)
    assert torch.equal(x, few.splits["train"][0])


def test_validation_and_test_stay_as_they_are(taught):
    data, few = taught
    for split in ("validation", "test"):
        for a, b in zip(data.splits[split], few.splits[split], strict=True):
            assert torch.equal(a, b)


def test_the_key_is_that_of_recorded_cells_and_does_not_hang_on_the_answers(taught):
    data, _ = taught
    assert data.key == "6452817f62440c66"
