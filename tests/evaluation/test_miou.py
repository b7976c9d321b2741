import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.miou import Confusion


def test_equals_sklearn_over_the_classes_present() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(np.array([0, 1, 2, 4, 253, 254, 255], np.uint8), (40, 50))
    prediction = rng.integers(0, 6, (40, 50)).astype(np.uint8)
    confusion = Confusion(6)
    confusion.update(prediction[:20], label[:20])
    other = Confusion(6)
    other.update(torch.from_numpy(prediction[20:]).long(), torch.from_numpy(label[20:]))
    confusion.merge(other)
    valid = label < 6
    classes = (((label == c)[valid], (prediction == c)[valid]) for c in range(6))
    expected = np.array([jaccard_score(true, predicted) for true, predicted in classes])
    np.testing.assert_allclose(confusion.iou(), expected)  # classes 3 and 5 are predicted but never true: 0
    assert confusion.miou() == pytest.approx(np.mean(expected[[0, 1, 2, 4]]))
    assert confusion.matrix.sum() == valid.sum()


def test_nothing_counted_is_nan() -> None:
    confusion = Confusion(3)
    confusion.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert np.isnan(confusion.miou()) and np.isnan(confusion.iou()).all()


def test_mistakes_are_named() -> None:
    with pytest.raises(MgcdaError, match="frame 7: predicted class 3 with 3 classes"):
        Confusion(3).update(np.full((2, 2), 3), np.zeros((2, 2), np.uint8), "frame 7")
    with pytest.raises(MgcdaError, match="shape"):
        Confusion(3).update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
