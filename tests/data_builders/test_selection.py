import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builders.selection import main, nearest_to_centres, read_embeddings, reserve, select
from logreasoner.cli import UserError
from logreasoner.config import declare, resolve
from logreasoner.files import read_json
from logreasoner.schemas import Selection

ROWS = np.random.default_rng(3).standard_normal((60, 8))


@pytest.mark.parametrize("method", ["dpp", "random", "kmeans"])
def test_as_many_different_rows_as_asked_for_and_always_the_same(method):
    for count in (1, 7, 60):
        by = Selection(method=method, kernel="rbf")
        chosen = select(ROWS, count, by, seed=1)
        assert len(set(chosen)) == len(chosen) == count and set(chosen) <= set(range(60))
        assert select(ROWS, count, by, seed=1) == chosen
    with pytest.raises(UserError, match="cannot choose 61 of 60 rows"):
        select(ROWS, 61, by, seed=1)


def test_the_seed_and_the_kernel_matter():
    random = [select(ROWS, 7, Selection(method="random"), seed) for seed in (1, 2)]
    assert random[0] != random[1]
    assert select(ROWS, 8, Selection(), 1) != select(ROWS, 8, Selection(kernel="rbf", gamma=0.01), 1)
    assert select(ROWS, 8, Selection(), 1) == select(ROWS, 8, Selection(), 2)


def test_the_reserve_goes_on_where_the_selection_stopped():
    """With a linear kernel of rank 8: three more of the same DPP, then a new one among the rest."""
    by = Selection()
    chosen = select(ROWS, 5, by, 1)
    assert reserve(ROWS, chosen, by, 1) == select(ROWS, 7, by, 1)[5:]
    full = select(ROWS, 8, by, 1)
    more = reserve(ROWS, full, by, 1)
    rest = [row for row in range(60) if row not in full]
    assert more == [rest[row] for row in select(ROWS[rest], 2, by, 1)]
    for other in (Selection(method="random"), Selection(method="kmeans")):
        chosen = select(ROWS, 55, other, 1)
        assert set(chosen).isdisjoint(reserve(ROWS, chosen, other, 1)) and len(reserve(ROWS, chosen, other, 1)) == 5


def test_k_means_takes_the_row_nearest_to_each_centre_the_lowest_of_equal_ones():
    """Three tight groups around the axes, in each of which the middle row is the centre; its copies come later."""
    offset = np.array([[0.1, 0, 0, 0, 0, 0], [0, 0.1, 0, 0, 0, 0], [0, 0, 0.1, 0, 0, 0]])
    rows = np.array([axis + sign * offset[(place + 1) % 3]
                     for place, axis in enumerate(np.eye(6)[:3]) for sign in (-1, 0, 1)])
    rows = np.vstack([rows, 5 * rows[[1, 4, 7]], rows])
    assert sorted(nearest_to_centres(rows, 3, seed=0)) == [1, 4, 7]
    assert sorted(nearest_to_centres(rows, 9, seed=0)) == list(range(9))
    with pytest.raises(UserError, match="only 9 of 10 rows can be chosen: every other row repeats one of these"):
        nearest_to_centres(rows, 10, seed=0)


def test_k_means_breaks_ties_by_the_lowest_row():
    rows = np.array([[1.0, 0.2], [1.0, -0.2], [1.0, 0.2]])  # the centre lies in the middle of the first two
    assert nearest_to_centres(rows, 1, seed=0) == [0]
    assert nearest_to_centres(rows[::-1][1:], 1, seed=0) == [0]


def test_a_run_selects_as_it_declares(workdir, monkeypatch):
    np.save("E.npy", ROWS[:, :3])
    chosen = {}
    for name, overrides in (("a", []), ("b", ["selection=kmeans"]), ("c", ["selection=random", "seed=7"])):
        declared = resolve("demo", overrides)
        stage1 = declared.stage1.model_copy(update={"select": 3})
        declare(name, declared.model_copy(update={"stage1": stage1}))
        monkeypatch.setattr("sys.argv", ["", "--embeddings", "E.npy", "--run", name, "--out", f"{name}.json"])
        main()
        chosen[name] = read_json(f"{name}.json")
    assert chosen["a"] == select(ROWS[:, :3], 3, Selection(), 42)
    assert chosen["b"] == select(ROWS[:, :3], 3, Selection(method="kmeans"), 42)
    assert chosen["c"] == select(ROWS[:, :3], 3, Selection(method="random"), 7)
    with pytest.raises(UserError, match="stage1.selection.method: Input should be 'dpp', 'random' or 'kmeans'"):
        resolve("demo", ["selection=best"])


def command(folder, *more):
    return subprocess.run([sys.executable, "-m", "data_builders.selection", "--embeddings", folder / "E.npy",
                           "--out", folder / "ids.json", *more], capture_output=True, text=True)


def test_the_command_writes_a_list_or_nothing(tmp_path):
    np.save(tmp_path / "E.npy", np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 3]])
    assert command(tmp_path, "--count", "4").returncode == 0
    assert json.loads((tmp_path / "ids.json").read_text()) == [0, 2, 3, 4]
    assert "made before, from the same embeddings" in command(tmp_path, "--count", "4").stdout
    assert command(tmp_path, "--count", "3").returncode == 0
    assert json.loads((tmp_path / "ids.json").read_text()) == [0, 2, 3]
    (tmp_path / "ids.json").unlink()
    failed = command(tmp_path, "--count", "5")
    assert failed.returncode == 1
    assert "E.npy: only 4 of 5 rows can be chosen" in failed.stderr and "Traceback" not in failed.stderr
    assert not (tmp_path / "ids.json").exists()


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "E.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(UserError, match="not an .npy array of numbers"):
        read_embeddings(tmp_path / "E.npy")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda tail: b"\x93NUMPY\x01\x00v\x00{'descr': '" + tail))
def test_any_other_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "E.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not an .npy array of numbers"):
        read_embeddings(path)
