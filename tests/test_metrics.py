"""Each measure against a case worked out by hand."""

import math

import numpy as np
import pytest

from models.detection import Event, ScoredClip
from models.metrics import (
    LOCALISATION,
    class_scores,
    d_prime,
    localisation_metrics,
    tagging_metrics,
)
from models.psds import SCENARIOS, psds


def event(onset, offset, label):
    return Event(onset, offset, label, 1.0)


def test_average_precision_and_auc_of_a_ranking():
    # Ranked: positive, negative, positive, negative. AP = (1/1 + 2/3) / 2; of the four pairs of a
    # positive and a negative three are in order.
    probability = np.array([[0.9], [0.8], [0.7], [0.1]])
    target = np.array([[1], [0], [1], [0]])
    precision, area = class_scores(probability, target)
    assert precision[0] == pytest.approx((1 + 2 / 3) / 2)
    assert area[0] == pytest.approx(3 / 4)


def test_classes_without_positives_are_left_out_of_the_means():
    probability = np.array([[0.9, 0.5], [0.8, 0.6], [0.7, 0.1], [0.1, 0.2]])
    target = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    scores = tagging_metrics(probability, target, np.array([0.5, 0.5]))
    assert scores["mAP"] == pytest.approx(5 / 6)
    assert scores["mAUC"] == pytest.approx(3 / 4)


def test_clip_f1_is_micro_averaged_with_each_class_at_its_threshold():
    probability = np.array([[0.9, 0.3], [0.4, 0.2], [0.6, 0.1]])
    target = np.array([[1, 1], [1, 0], [0, 0]])
    # Predicted: class 0 in clips 0 and 2, class 1 in clips 0 and 1; 2 of 4 right, 3 to be found.
    scores = tagging_metrics(probability, target, np.array([0.5, 0.2]))
    assert scores["clip_f1"] == pytest.approx(2 * 2 / (4 + 3))


def test_macro_f1_is_the_mean_over_the_classes_that_occur():
    probability = np.array([[0.9, 0.3, 0.9], [0.4, 0.2, 0.1], [0.6, 0.1, 0.1]])
    target = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    # Class 0: 1 of 2 found, 1 false; class 1: 1 of 1 found, 1 false; class 2 does not occur.
    scores = tagging_metrics(probability, target, np.array([0.5, 0.2, 0.5]))
    assert scores["clip_f1_macro"] == pytest.approx((2 * 1 / (2 + 2) + 2 * 1 / (1 + 2)) / 2)


def test_f1_of_a_single_class_leaves_its_negatives_out():
    # 1 right of 2 found and 1 true; counting the right negative too would give 2 of 3.
    scores = tagging_metrics(
        np.array([[0.9], [0.8], [0.1]]), np.array([[1], [0], [0]]), np.array([0.5])
    )
    assert scores["clip_f1"] == scores["clip_f1_macro"] == pytest.approx(2 / 3)


def test_micro_average_precision_ranks_all_classes_together():
    # Ranked: class 0 positive, class 1 negative, class 1 positive, class 0 negative.
    probability = np.array([[0.9, 0.8], [0.1, 0.7]])
    target = np.array([[1, 0], [0, 1]])
    scores = tagging_metrics(probability, target, np.array([0.5, 0.5]))
    assert scores["micro_AP"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["mAP"] == pytest.approx((1 + 1 / 2) / 2)


def test_d_prime_is_the_distance_of_two_unit_normals():
    # Two normals one unit apart: AUC = Φ(1/√2).
    area = 0.5 * (1 + math.erf(1 / math.sqrt(2) / math.sqrt(2)))
    assert d_prime(area) == pytest.approx(1.0)
    assert d_prime(0.5) == pytest.approx(0.0)
    assert d_prime(1.0) is None
    assert d_prime(None) is None


def test_no_positives_at_all_give_no_score():
    scores = tagging_metrics(np.full((2, 1), 0.9), np.zeros((2, 1)), np.array([0.5]))
    assert scores["mAP"] is None
    assert scores["micro_AP"] is None
    assert scores["clip_f1_macro"] is None
    assert scores["mAUC"] is None
    assert scores["d_prime"] is None


def test_segments_and_events_of_two_clips():
    reference = {"a": [event(0, 2, 0), event(3, 4, 1)], "b": [event(1, 3, 1)]}
    estimated = {"a": [event(0.1, 2.1, 0)], "b": [event(1, 3.9, 0)]}
    scores = localisation_metrics(reference, estimated, {"a": 5.0, "b": 4.0}, 2)
    # Segments: 5 true, 6 found, 2 of them right (clip a, class 0, seconds 0 and 1).
    assert scores["segment_f1"] == pytest.approx(2 * 2 / (5 + 6))
    assert scores["segment_precision"] == pytest.approx(2 / 6)
    assert scores["segment_recall"] == pytest.approx(2 / 5)
    # Insertions: a second 2, b second 3; deletion: a second 3; substitutions: b seconds 1 and 2.
    assert scores["segment_er"] == pytest.approx((2 + 1 + 2) / 5)
    assert scores["segment_insertions"] == pytest.approx(2 / 5)
    assert scores["segment_deletions"] == pytest.approx(1 / 5)
    # Of class 0 2 of 2 are found among 6, of class 1 none.
    assert scores["segment_f1_macro"] == pytest.approx((2 * 2 / (2 + 6) + 0) / 2)
    # Events: 3 true, 2 found, 1 right: 100 ms late at both ends.
    assert scores["event_f1"] == pytest.approx(2 * 1 / (3 + 2))
    assert scores["event_f1_macro"] == pytest.approx((2 * 1 / (1 + 2) + 0) / 2)
    assert scores["event_precision_macro"] == pytest.approx((1 / 2 + 0) / 2)
    assert scores["event_recall_macro"] == pytest.approx((1 / 1 + 0) / 2)


def test_classes_that_no_clip_holds_change_no_measure():
    reference = {"a": [event(0, 2, 0), event(3, 4, 1)], "b": [event(1, 3, 1)]}
    estimated = {"a": [event(0.1, 2.1, 0)], "b": [event(1, 3.9, 0)]}
    scores = [
        localisation_metrics(reference, estimated, {"a": 5.0, "b": 4.0}, classes)
        for classes in (2, 500)
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("onset", "offset", "right"),
    [
        (1.19, 2.0, True),
        (1.21, 2.0, False),
        (1.0, 2.19, True),
        (1.0, 2.21, False),
    ],
)
def test_an_event_is_right_within_200_ms(onset, offset, right):
    scores = localisation_metrics(
        {"a": [event(1, 2, 0)]}, {"a": [event(onset, offset, 0)]}, {"a": 5.0}, 1
    )
    assert scores["event_f1"] == (1.0 if right else 0.0)


@pytest.mark.parametrize(("offset", "right"), [(5.9, True), (6.1, False)])
def test_a_long_events_offset_may_err_by_a_fifth_of_its_length(offset, right):
    scores = localisation_metrics(
        {"a": [event(0, 5, 0)]}, {"a": [event(0, offset, 0)]}, {"a": 10.0}, 1
    )
    assert scores["event_f1"] == (1.0 if right else 0.0)


def test_finding_nothing_scores_zero():
    scores = localisation_metrics({"a": [event(0, 1, 0)]}, {}, {"a": 2.0}, 1)
    assert scores.pop("segment_er") == scores.pop("segment_deletions") == pytest.approx(1.0)
    assert set(scores.values()) == {0.0}


def test_false_alarms_in_a_clip_without_events_count():
    scores = localisation_metrics(
        {"a": [event(0, 1, 0)]},
        {"a": [event(0, 1, 0)], "b": [event(0, 2, 0)]},
        {"a": 2.0, "b": 2.0},
        1,
    )
    assert scores["segment_er"] == pytest.approx(2.0)
    assert scores["segment_f1"] == pytest.approx(2 * 1 / (1 + 3))


def test_without_strong_labels_there_is_no_localisation():
    assert localisation_metrics({}, {}, {}, 3) == dict.fromkeys(LOCALISATION)
    assert psds({"a": ScoredClip(np.zeros((2, 3)), (), 2.0)}, 1.0) == dict.fromkeys(SCENARIOS)


@pytest.fixture
def two_half_hours():
    """Two clips of 20 frames of 90 s: an hour, so that false positives are counts an hour.

    Class 0 occurs in a (frame 0) and b (frame 4), class 1 in a (frame 5) alone, where class 0 gives
    a false alarm that is likelier than its second event.
    """
    a, b = np.zeros((20, 2)), np.zeros((20, 2))
    a[0, 0], a[5, 0], b[4, 0] = 0.9, 0.8, 0.7
    a[5, 1] = 0.9
    return {
        "a": ScoredClip(a, [event(0, 90, 0), event(450, 540, 1)], 1800.0),
        "b": ScoredClip(b, [event(360, 450, 0)], 1800.0),
    }


def test_psds_is_the_area_under_the_curve_of_hits_against_false_positives(two_half_hours):
    # Of class 0 half is found without a false positive, all with one; all of class 1 at once. Up to
    # one false positive an hour the mean less the deviation is 3/4 - 1/4, then 1, until 100.
    assert psds(two_half_hours, 90.0)["psds_1"] == pytest.approx((1 / 2 * 1 + 99) / 100)


def test_the_second_scenario_of_psds_adds_cross_triggers(two_half_hours):
    # The false alarm lies in the only 90 s of class 1: one in 90 s is 40 an hour, half of it
    # counts.
    assert psds(two_half_hours, 90.0)["psds_2"] == pytest.approx((1 / 2 * 21 + 79) / 100)


def test_psds_of_a_single_class_has_no_cross_triggers():
    frame = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    clip = ScoredClip(frame, [event(0, 180, 0)], 360.0)
    assert psds({"a": clip}, 90.0) == pytest.approx({"psds_1": 1.0, "psds_2": 1.0})


def test_psds_takes_events_that_touch_for_one(two_half_hours):
    a = two_half_hours["a"]
    parts = [event(0, 50, 0), event(50, 70, 0), event(60, 90, 0), event(450, 540, 1)]
    split = {**two_half_hours, "a": ScoredClip(a.frame, parts, a.seconds)}
    assert psds(split, 90.0) == psds(two_half_hours, 90.0)
