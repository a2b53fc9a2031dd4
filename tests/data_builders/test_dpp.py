import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.selection import cosines, reference
from data_builders import dpp
from data_builders.dpp import EXHAUSTED, TIE, greedy_map
from logreasoner.cli import UserError


def brute_force(rows, count, kernel="linear", gamma=1.0):
    """Greedy by definition: the row that adds most to the log-determinant; fewer rows when nothing new is left."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    matrix = unit @ unit.T
    if kernel == "rbf":
        matrix = np.exp(2 * gamma * (matrix - 1))
    chosen: list[int] = []
    while len(chosen) < count:
        now = np.linalg.slogdet(matrix[np.ix_(chosen, chosen)])[1]
        gains = np.full(len(rows), -np.inf)
        for row in set(range(len(rows))) - set(chosen):
            sign, value = np.linalg.slogdet(matrix[np.ix_([*chosen, row], [*chosen, row])])
            gains[row] = np.exp(value - now) if sign > 0 else 0.0
        if gains.max() <= EXHAUSTED:
            break
        chosen.append(int(np.argmax(gains >= gains.max() * (1 - 1e-9))))
    return chosen


# Small whole numbers: many exact duplicates, parallel rows and ties; a determinant is then zero or far from it.
small = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.integers(-2, 2)).filter(
    lambda rows: bool(rows.any(axis=1).all()))


@settings(max_examples=150, deadline=None)
@given(small)
def test_linear_is_greedy_by_definition_and_says_when_the_rank_is_exhausted(rows):
    expected = brute_force(rows, len(rows))
    assert greedy_map(rows, len(expected)) == expected
    assert len(expected) == np.linalg.matrix_rank(rows)
    if len(expected) < len(rows):
        with pytest.raises(UserError, match=rf"only {len(expected)} of {len(rows)} rows"):
            greedy_map(rows, len(rows))


@settings(max_examples=60, deadline=None)
@given(small)
def test_rbf_is_greedy_by_definition(rows):
    expected = brute_force(rows, len(rows), "rbf", gamma=2.0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert len(expected) == len(np.unique(unit.round(9), axis=0))  # not bound by the rank
    assert greedy_map(rows, len(expected), "rbf", gamma=2.0) == expected


def test_rbf_in_blocks_chooses_the_same(monkeypatch):
    rows = np.random.default_rng(4).standard_normal((300, 8))
    expected = greedy_map(rows, 120, "rbf", gamma=2.0)
    monkeypatch.setattr(dpp, "KERNEL_BYTES", 0)
    assert greedy_map(rows, 120, "rbf", gamma=2.0) == expected


def high_precision(rows, count):
    """Greedy choice from explicit residuals in extended precision."""
    left = rows.astype(np.longdouble)
    left /= np.sqrt((left**2).sum(axis=1))[:, None]
    chosen = []
    for _ in range(count):
        gains = (left**2).sum(axis=1)
        chosen.append(int(np.argmax(gains >= gains.max() - TIE)))
        direction = left[chosen[-1]] / np.sqrt(gains[chosen[-1]])
        for _ in range(2):
            left -= np.outer(left @ direction, direction)
    return chosen


@pytest.fixture(params=["whole kernel", "blocks"])
def path(request, monkeypatch):
    """Choose from the whole kernel, or block by block, as for many rows."""
    if request.param == "blocks":
        monkeypatch.setattr(dpp, "KERNEL_BYTES", 0)


@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])  # 3: the last gains are below 1e-9
def test_many_rows_and_directions_match_a_high_precision_reference(decay, path):
    rows = np.random.default_rng(1).standard_normal((400, 96)) * np.arange(1, 97) ** -decay
    assert greedy_map(rows, 88) == high_precision(rows, 88)


def crowds():
    """Rows that tie everywhere: copies, copies of other lengths or a rounding apart, few values; and rows that do not.

    The last two have one direction in common, so that their gains are near 1e-4 and near 1e-8.
    """
    draw = np.random.default_rng(6)
    again = draw.integers(90, size=1200)
    distinct = draw.standard_normal((90, 64))
    yield "copies", distinct[again]
    yield "lengths", np.eye(64)[again % 64] * draw.uniform(0.5, 2, (1200, 1))
    yield "nearly", distinct[again] + 1e-15 * draw.standard_normal((1200, 64))
    yield "pairs", np.eye(64)[again % 64] + np.eye(64)[draw.integers(64, size=1200)]
    yield "counts", draw.poisson(0.1, (1200, 64)) + np.eye(64)[0]
    yield "random", draw.standard_normal((1200, 64))
    for width in (1e-2, 1e-4):
        yield f"narrow {width}", np.hstack([np.ones((1200, 1)), width * np.eye(63)[again % 63]])


@pytest.mark.parametrize("rows", [pytest.param(rows, id=name) for name, rows in crowds()])
def test_blocks_do_not_change_the_choice_on_ties(rows, monkeypatch):
    expected = high_precision(rows, 60)
    assert greedy_map(rows, 60) == expected
    monkeypatch.setattr(dpp, "KERNEL_BYTES", 0)
    for block in (1, 7, 64, 512, 1200):
        monkeypatch.setattr(dpp, "BLOCK", block)
        assert greedy_map(rows, 60) == expected


def test_the_choice_is_the_published_algorithms(path):
    rows = np.random.default_rng(7).standard_normal((3000, 128)).astype(np.float32)
    assert greedy_map(rows, 120) == reference(cosines(rows), 120)


def test_the_full_rank_can_be_chosen_and_no_row_more(path):
    rows = np.random.default_rng(5).standard_normal((1500, 384)).astype(np.float32)
    assert len(set(greedy_map(rows, 384))) == 384
    with pytest.raises(UserError, match="only 384 of 385 rows can be chosen: .* one row for each of the 384 dim"):
        greedy_map(rows, 385)


def test_permuting_rows_permutes_the_choice():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((300, 40))
    order = np.concatenate([[0], 1 + rng.permutation(299)])  # row 0 stays: it wins the first tie, of all rows
    assert [int(order[row]) for row in greedy_map(rows[order], 40)] == greedy_map(rows, 40)


def test_ties_and_duplicates_go_to_the_lowest_row():
    assert greedy_map(np.eye(50)[np.repeat(np.arange(50), 3)], 50) == list(range(0, 150, 3))
    nearly = np.array([[1.0, 0, 0], [0, 1, 0], [1e-7, 0, 1]])  # 1e-14 less than a tie would be
    assert greedy_map(nearly[[0, 2, 1]], 3) == [0, 1, 2]
    apart = np.array([[1.0, 0, 0], [1e-5, 0, 1], [0, 1, 0]])  # 1e-10 less: no tie
    assert greedy_map(apart, 3) == [0, 2, 1]


def test_ties_at_the_smallest_gains(path):
    near = np.hstack([np.ones((60, 1)), 3e-5 * np.eye(60)])  # all alike by symmetry; gains are near 1e-9
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((61, 61)))[0]
    assert greedy_map(near @ turn, 60) == list(range(60))


def test_scale_and_type_do_not_matter():
    rows = np.random.default_rng(3).standard_normal((5000, 8)).astype(np.float32)
    expected = greedy_map(rows, 8)
    assert greedy_map(rows.astype(np.float64) * np.logspace(-200, 200, 5000)[:, None], 8) == expected
    assert greedy_map(np.asfortranarray(rows), 8) == expected
    assert len(set(greedy_map(rows.astype(np.float16), 8))) == 8


@pytest.mark.parametrize(("rows", "message"), [
    (np.array([[1.0, 0], [np.nan, 1]]), "row 1 holds NaN"),
    (np.array([[1.0, 0], [0, 1], [-np.inf, 1]]), "row 2 holds NaN, infinity"),
    (np.array([[1.0, 0], [0, 0]]), "row 1 is zero"),
    (np.ones(3), r"expected N x d real numbers.*\(3,\)"),
    (np.ones((0, 3)), "expected N x d real numbers"),
    (np.ones((2, 2), dtype=complex), "expected N x d real numbers.*complex"),
])
def test_bad_arrays_are_refused_by_row(rows, message):
    with pytest.raises(UserError, match=message):
        greedy_map(rows, 1)


@pytest.mark.parametrize("count", [-1, 0, 4])
def test_counts_that_cannot_be(count):
    with pytest.raises(UserError, match=f"cannot choose {count} of 3 rows"):
        greedy_map(np.eye(3), count)
