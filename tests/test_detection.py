"""From probabilities to events and thresholds."""

import numpy as np
import pytest

from models.detection import DetectionOptions, Event, find_events, tune_thresholds

HALF = np.array([0.5])


def frames(*values):
    return np.array(values)[:, None]


def spans(events):
    return [(round(event.onset, 6), round(event.offset, 6)) for event in events]


def test_an_event_covers_the_frames_at_or_above_its_threshold():
    events = find_events(frames(0.1, 0.5, 0.9, 0.4), HALF, 0.1)
    assert spans(events) == [(0.1, 0.3)]
    assert events[0].label == 0
    assert events[0].probability == pytest.approx(0.9)


def test_each_class_has_its_threshold_and_events_come_in_order():
    probability = np.array([[0.3, 0.3], [0.3, 0.6], [0.6, 0.6]])
    events = find_events(probability, np.array([0.2, 0.5]), 1.0)
    assert events == [Event(0.0, 3.0, 0, 0.6), Event(1.0, 3.0, 1, 0.6)]


def test_a_class_that_the_clip_does_not_hold_has_no_events():
    probability = np.array([[0.6, 0.9], [0.6, 0.6], [0.2, 0.6]])
    both = np.array([0.5, 0.5])
    events = find_events(probability, both, 1.0, clip=np.array([0.4, 0.5]))
    assert events == [Event(0.0, 3.0, 1, 0.9)]
    of_frames = np.array([[0.5, 0.4], [0.5, 0.4], [0.5, 0.5]])
    events = find_events(probability, both, 1.0, clip=of_frames)
    assert events == [Event(0.0, 2.0, 0, 0.6), Event(2.0, 3.0, 1, 0.6)]


def test_clips_and_frames_may_have_thresholds_apart():
    probability = np.array([[0.3], [0.2]])
    low, high = np.array([0.25]), np.array([0.6])
    found = find_events(probability, low, 1.0, clip=np.array([0.7]), clip_thresholds=high)
    assert spans(found) == [(0.0, 1.0)]
    assert find_events(probability, low, 1.0, clip=np.array([0.5]), clip_thresholds=high) == []


def test_no_event_outlasts_its_clip():
    assert spans(find_events(frames(0.9, 0.9), HALF, 0.1, duration=0.13)) == [(0.0, 0.13)]


def test_silence_has_no_events():
    assert find_events(frames(0.1, 0.2), HALF, 0.1) == []
    assert find_events(np.zeros((0, 1)), HALF, 0.1) == []


def test_short_gaps_are_closed_and_long_ones_kept():
    probability = frames(0.9, 0.0, 0.9, 0.0, 0.0, 0.9)
    options = DetectionOptions(max_gap=0.1)
    assert spans(find_events(probability, HALF, 0.1, options=options)) == [(0.0, 0.3), (0.5, 0.6)]


def test_short_events_are_dropped_after_gaps_were_closed():
    probability = frames(0.9, 0.0, 0.9, 0.0, 0.0, 0.9)
    options = DetectionOptions(max_gap=0.1, min_duration=0.3)
    assert spans(find_events(probability, HALF, 0.1, options=options)) == [(0.0, 0.3)]


def test_a_median_filter_removes_lone_frames():
    probability = frames(0.9, 0.0, 0.0, 0.9, 0.0, 0.9, 0.9, 0.0, 0.0)
    options = DetectionOptions(median=0.3)
    assert spans(find_events(probability, HALF, 0.1, options=options)) == [(0.4, 0.7)]


def test_a_threshold_lies_half_way_between_the_best_decisions():
    probability = np.array([[0.9], [0.8], [0.4], [0.2]])
    target = np.array([[1], [1], [0], [0]])
    assert tune_thresholds(probability, target) == pytest.approx([0.6])


def test_a_threshold_maximises_f1_where_classes_overlap():
    # Predicting the first 3 finds both positives: F1 = 4/5; the first alone: 2/3.
    probability = np.array([[0.9], [0.8], [0.7], [0.1]])
    target = np.array([[1], [0], [1], [0]])
    assert tune_thresholds(probability, target) == pytest.approx([0.4])


def test_equal_probabilities_are_not_split():
    probability = np.array([[0.9], [0.6], [0.6], [0.2]])
    target = np.array([[1], [1], [0], [0]])
    threshold = tune_thresholds(probability, target)
    assert ((probability >= threshold).sum()) == 3


def test_a_class_without_positives_gets_one_half():
    assert tune_thresholds(np.array([[0.1], [0.9]]), np.zeros((2, 1))) == pytest.approx([0.5])
