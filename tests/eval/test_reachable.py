"""The searches against trying every matrix, and against scikit-learn's numbers through eval.score.measures."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.printed import HOW, Number
from eval.reachable import by_chance, highest, one_class, rights, two_classes, weighted_f1, witness
from eval.score import measures


def prints(value: Fraction, number: Number, how: str) -> bool:
    scaled = value * number.scale
    if how == "truncate":
        return int(scaled) == number.digits
    return abs(scaled - number.digits) <= Fraction(1, 2)


def share(above: int, below: int) -> Fraction:
    return Fraction(above, below) if below else Fraction(0)


def scored(tp: int, fp: int, positives: int, n: int) -> dict[str, Fraction]:
    fn, tn = positives - tp, n - positives - fp
    weighted = [share(2 * hit, 2 * hit + fp + fn) * rows for hit, rows in ((tp, positives), (tn, n - positives))]
    return {"precision": share(tp, tp + fp), "recall": share(tp, positives), "f1": share(2 * tp, positives + tp + fp),
            "accuracy": share(tp + tn, n), "weighted_f1": sum(weighted, Fraction()) / n}


@st.composite
def cells(draw: st.DrawFn, metrics: tuple[str, ...]) -> tuple[dict[str, Number], int, int, str]:
    """Numbers near those of a random matrix, so that many are reachable and many are not."""
    n = draw(st.integers(2, 14))
    positives = draw(st.integers(1, n - 1))
    real = scored(draw(st.integers(0, positives)), draw(st.integers(0, n - positives)), positives, n)
    cell = {}
    for metric in metrics:
        scale = draw(st.sampled_from([10, 100, 1000, 10_000]))
        near = int(real[metric] * scale) + draw(st.sampled_from([0, 0, 0, 1, -1]))
        cell[metric] = Number(min(max(near, 0), scale), scale)
    return cell, positives, n, draw(st.sampled_from(HOW))


def brute(cell: dict[str, Number], positives: int, n: int, how: str) -> set[tuple[int, int]]:
    return {(tp, fp) for tp, fp in product(range(positives + 1), range(n - positives + 1))
            if all(prints(scored(tp, fp, positives, n)[metric], number, how) for metric, number in cell.items())}


@given(st.sampled_from([("precision", "recall", "f1"), ("recall", "f1"), ("precision",), ("f1",)]).flatmap(cells))
def test_one_class_finds_every_matrix(case: tuple[dict[str, Number], int, int, str]) -> None:
    cell, positives, n, how = case
    found = one_class(cell, np.array([positives]), n, how)
    wanted = brute(cell, positives, n, how)
    assert found.matrices[0] == len(wanted)
    assert not wanted or (found.tp[0], found.fp[0]) in wanted


@given(st.sampled_from([("accuracy", "weighted_f1"), ("accuracy",)]).flatmap(cells))
def test_two_classes_finds_every_matrix(case: tuple[dict[str, Number], int, int, str]) -> None:
    cell, positives, n, how = case
    found = two_classes(cell, np.array([positives]), n, how)
    wanted = brute(cell, positives, n, how)
    assert found.matrices[0] == len(wanted)
    assert not wanted or (found.tp[0], found.fp[0]) in wanted


@pytest.mark.parametrize(("search", "metrics"), [(one_class, ("precision", "recall", "f1")),
                                                 (two_classes, ("accuracy", "weighted_f1"))])
@pytest.mark.parametrize("how", HOW)
def test_all_numbers_of_positives_at_once_are_each_by_itself(search, metrics, how) -> None:
    cell = {metric: Number(int(value * 1000), 1000) for metric, value in scored(31, 12, 40, 97).items()
            if metric in metrics}
    together = search(cell, np.arange(1, 97), 97, how).matrices
    assert together.tolist() == [int(search(cell, np.array([one]), 97, how).matrices[0]) for one in range(1, 97)]
    assert how == "round" or together[39] > 0


@pytest.mark.parametrize(("how", "matrices"), [("truncate", 1), ("round", 101)])
def test_large_test_sets_do_not_overflow(how: str, matrices: int) -> None:
    """100 wrong answers of a million: only the even split has a weighted F1 of 0.9999, the others a hair less."""
    cell = {"accuracy": Number(999_900, 1_000_000), "weighted_f1": Number(999_900, 1_000_000)}
    assert two_classes(cell, np.array([500_000]), 1_000_000, how).matrices[0] == matrices


@given(st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4), min_size=3, max_size=3), st.sampled_from(HOW))
def test_what_a_matrix_of_three_classes_prints_is_never_called_impossible(counts: list[list[int]], how: str) -> None:
    matrix = np.array(counts) + np.eye(3, 4, dtype=int)
    value = measures(matrix, None)["weighted_f1"]
    right, rows = int(np.trace(matrix)), matrix.sum(1).tolist()
    number = Number(int(value * 100), 100)
    assert highest(rows, right) >= Fraction(float(value)).limit_denominator(10**6) - Fraction(1, 10**5)
    found = witness(rows, right, number, "truncate", unparsed=True)
    if found:
        hits, wrong = found
        assert sum(hits) == right and sum(wrong) <= sum(rows) - right
        assert all(0 <= hit <= most for hit, most in zip(hits, rows, strict=True))
        assert all(more + most - hit <= sum(rows) - right for hit, more, most in zip(hits, wrong, rows, strict=True))
        assert prints(weighted_f1(rows, hits, wrong), number, "truncate")


@pytest.mark.parametrize("unparsed", [False, True])
def test_a_witness_is_found_where_there_are_many(unparsed: bool) -> None:
    rows = [407, 379, 258, 126, 65, 17]
    found = witness(rows, 481, Number(3336, 10_000), "truncate", unparsed)
    assert found and sum(found[0]) == 481 and (unparsed or sum(found[1]) == sum(rows) - 481)
    assert prints(weighted_f1(rows, *found), Number(3336, 10_000), "truncate")
    assert witness(rows, 481, Number(9000, 10_000), "truncate", unparsed) is None
    assert highest(rows, 481) < Fraction(9, 10)
    assert witness(rows, sum(rows), Number(100, 100), "truncate", unparsed) == (rows, [0] * 6)


def test_right_answers() -> None:
    assert list(rights({"accuracy": Number(6658, 10_000)}, 868, "truncate")) == [578]
    assert list(rights({"accuracy": Number(6658, 10_000)}, 868, "round")) == []
    assert list(rights({"accuracy": Number(1000, 1000)}, 868, "truncate")) == [868]


def test_by_chance_is_the_share_of_reachable_numbers() -> None:
    """Of all recalls and precisions around some point, with the F1 of a real pair among them."""
    positives, n, hits, tried = 300, 500, 0, 0
    cell = {}
    for precision, recall in product(range(6000, 6200, 7), range(7000, 7200, 7)):
        p, r = Fraction(2 * precision + 1, 20_000), Fraction(2 * recall + 1, 20_000)
        cell = {"precision": Number(precision, 10_000), "recall": Number(recall, 10_000),
                "f1": Number(int(2 * p * r / (p + r) * 10_000), 10_000)}
        hits += int(one_class(cell, np.array([positives]), n, "truncate").matrices[0] > 0)
        tried += 1
    chance = float(by_chance(cell, np.array([positives]), n)[0])
    assert hits / tried == pytest.approx(chance, abs=3 * (chance / tried) ** 0.5)
