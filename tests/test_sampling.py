"""Class-balanced mini-batches and the stratified held-out part."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from models.data.sampling import BalancedBatchSampler, PartsBatchSampler, held_out_split

SKEWED = [(0,)] * 80 + [(1,)] * 15 + [(2,)] * 5


def one_hot(labels: list[tuple[int, ...]], num_classes: int) -> torch.Tensor:
    target = torch.zeros(len(labels), num_classes)
    for row, classes in zip(target, labels, strict=True):
        row[list(classes)] = 1
    return target


def test_every_batch_holds_about_equally_many_clips_of_each_class() -> None:
    for batch in BalancedBatchSampler(SKEWED, batch_size=10, seed=0):
        counts = Counter(SKEWED[index][0] for index in batch)
        assert sorted(counts.values()) == [3, 3, 4]


def shares(labels: list[tuple[int, ...]], max_ratio: int) -> dict[int, float]:
    """How often each class is drawn, relative to the rarest, over many batches."""
    sampler = BalancedBatchSampler(labels, 20, max_ratio=max_ratio)
    counts: Counter[int] = Counter()
    for epoch in range(30):
        sampler.set_epoch(epoch)
        counts.update(labels[index][0] for batch in sampler for index in batch)
    return {label: count / min(counts.values()) for label, count in counts.items()}


def test_with_a_ratio_the_most_frequent_class_is_drawn_at_most_so_many_times_the_rarest() -> None:
    assert shares(SKEWED, 5) == pytest.approx({0: 5, 1: 3, 2: 1}, rel=0.02)
    assert shares(SKEWED, 1) == pytest.approx({0: 1, 1: 1, 2: 1}, rel=0.02)


def test_with_a_ratio_what_is_nearly_balanced_stays_as_it_is() -> None:
    assert shares([(0,)] * 40 + [(1,)] * 20, 5) == pytest.approx({0: 2, 1: 1}, rel=0.02)


def test_with_a_ratio_the_order_of_classes_changes_from_round_to_round() -> None:
    (batch,) = BalancedBatchSampler([(0,), (1,), (2,)] * 10, 30, max_ratio=5)
    rounds = [tuple(index % 3 for index in batch[start : start + 3]) for start in range(0, 30, 3)]
    assert all(sorted(turns) == [0, 1, 2] for turns in rounds)
    assert len(set(rounds)) > 1


@pytest.mark.parametrize(("clips", "size", "batches"), [(100, 10, 10), (101, 10, 11), (3, 8, 1)])
def test_an_epoch_has_as_many_full_batches_as_the_clips_need(
    clips: int, size: int, batches: int
) -> None:
    sampler = BalancedBatchSampler([(0,)] * clips, size)
    assert [len(batch) for batch in sampler] == [size] * batches
    assert len(sampler) == batches


def test_a_class_shows_all_its_clips_before_one_comes_again() -> None:
    drawn = [index for batch in BalancedBatchSampler(SKEWED, 10) for index in batch]
    rare = [index for index in drawn if SKEWED[index] == (2,)]
    for start in range(0, len(rare) - 5, 5):
        assert set(rare[start : start + 5]) == set(range(95, 100))


def test_seed_and_epoch_alone_decide_the_batches() -> None:
    sampler = BalancedBatchSampler(SKEWED, 10, seed=1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(BalancedBatchSampler(SKEWED, 10, seed=2)) != first


def test_a_tensor_and_label_tuples_are_the_same_to_it() -> None:
    labels = [(0, 2), (), (2,), (0,), (5,)]
    tuples, tensor = (
        list(BalancedBatchSampler(targets, 3, seed=3)) for targets in (labels, one_hot(labels, 7))
    )
    assert tuples == tensor


def test_clips_without_labels_take_turns_as_a_class_and_absent_classes_do_not() -> None:
    labels = [(4,)] * 6 + [()] * 2
    batches = list(BalancedBatchSampler(labels, 4))
    assert [sum(labels[index] == () for index in batch) for batch in batches] == [2, 2]


def test_a_data_loader_takes_its_batches_and_a_training_loop_finds_its_epoch() -> None:
    sampler = BalancedBatchSampler(SKEWED, 10)
    loader = DataLoader(torch.arange(100), batch_sampler=sampler)
    loader.batch_sampler.sampler.set_epoch(3)
    assert sampler.epoch == 3
    assert [batch.tolist() for batch in loader] == list(sampler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([(0,)], 0), "batch_size: expected at least 1, got 0"),
        (([(0,)], 1, -1), "seed: expected at least 0, got -1"),
        (([(0,)], 1, 0, 0), "max_ratio: expected at least 1, got 0"),
        (([], 1), "targets: expected at least one clip"),
        ((torch.zeros(3), 1), r"targets: expected shape \(N, num_classes\), got \(3,\)"),
    ],
)
def test_a_sampler_that_cannot_work_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalancedBatchSampler(*arguments)


PARTS = (np.arange(3), np.arange(3, 20), np.arange(20, 100))


def part_of(index: int) -> int:
    return next(number for number, part in enumerate(PARTS) if index in part)


@pytest.mark.parametrize(
    ("shares", "counts"), [((1, 1, 2), (6, 6, 12)), ((1, 1, 1), (8, 8, 8)), ((0, 0, 1), (1, 1, 22))]
)
def test_a_batch_has_each_parts_share(shares: tuple, counts: tuple) -> None:
    sampler = PartsBatchSampler(PARTS, shares, 24)
    for batch in sampler:
        drawn = Counter(map(part_of, batch))
        assert tuple(drawn[part] for part in range(3)) == counts


def test_every_clip_of_every_part_is_seen_in_an_epoch() -> None:
    sampler = PartsBatchSampler(PARTS, (1, 1, 2), 24)
    assert len(sampler) == len(list(sampler)) == 7
    assert {index for batch in sampler for index in batch} == set(range(100))


def test_pieces_of_a_batch_are_mixed_as_the_batch_is() -> None:
    batch = next(iter(PartsBatchSampler(PARTS, (1, 1, 2), 24)))
    for start in range(0, 24, 8):
        drawn = Counter(map(part_of, batch[start : start + 8]))
        assert tuple(drawn[part] for part in range(3)) == pytest.approx((2, 2, 4), abs=1)


def test_a_part_without_clips_leaves_its_share_to_the_others() -> None:
    sampler = PartsBatchSampler((np.arange(0), *PARTS[1:]), (1, 1, 2), 24)
    assert Counter(map(part_of, next(iter(sampler)))) == {1: 8, 2: 16}


def test_parts_that_fill_no_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="parts: expected at least one clip"):
        PartsBatchSampler([np.arange(0)], [1], 4)
    with pytest.raises(ValueError, match="batch_size: expected at least 3, a clip of each part"):
        PartsBatchSampler(PARTS, (1, 1, 2), 2)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_about_a_fraction_of_each_class_is_held_out(fraction: float) -> None:
    training, held_out = held_out_split(SKEWED, fraction)
    assert sorted([*training, *held_out]) == list(range(100))
    counts = Counter(SKEWED[index][0] for index in held_out)
    for label, size in enumerate((80, 15, 5)):
        assert counts[label] == pytest.approx(fraction * size, abs=1)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_with_two_clips_or_more_is_on_both_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [tuple(rng.choice(12, rng.integers(1, 4), replace=False)) for _ in range(60)]
    labels += [(12,), (12,), (13,)]
    training, held_out = held_out_split(labels, 0.2, seed)
    sides = [{label for index in side for label in labels[index]} for side in (training, held_out)]
    for label, size in Counter(label for row in labels for label in row).items():
        assert label in sides[0]
        assert label in sides[1] or size == 1
    assert len(held_out) < 0.35 * len(labels)


def test_a_split_repeats_for_a_seed_and_differs_between_seeds() -> None:
    split = [side.tolist() for side in held_out_split(SKEWED, 0.2, 1)]
    assert [side.tolist() for side in held_out_split(one_hot(SKEWED, 3), 0.2, 1)] == split
    assert [side.tolist() for side in held_out_split(SKEWED, 0.2, 2)] != split


@pytest.mark.parametrize("labels", [[], [(0,)], [()]])
def test_what_cannot_be_divided_stays_in_training(labels: list[tuple[int, ...]]) -> None:
    training, held_out = held_out_split(labels, 0.5)
    assert (training.tolist(), held_out.tolist()) == (list(range(len(labels))), [])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction: expected a number between 0 and 1"):
        held_out_split(SKEWED, fraction)
