"""Select the analyses that become thoughts (section 3.2.1 (2)): by a DPP as in the paper, at random, or by k-means.

The paper compares its DPP with no other selection; a run of its own with another one (SELECTION=) does.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from data_builders.dpp import first_copies, greedy_map, greedy_order, require_count, row_norms
from logreasoner import cli
from logreasoner.cli import UserError
from logreasoner.config import load_run
from logreasoner.files import up_to_date, write_json
from logreasoner.schemas import Selection


def random_rows(total: int, count: int, seed: int) -> list[int]:
    """Draw `count` of `total` row numbers by the seed, in the order of drawing."""
    return random.Random(f"{seed} selection").sample(range(total), count)


def nearest_to_centres(embeddings: NDArray[Any], count: int, seed: int) -> list[int]:
    """Choose a row for each of `count` centres of k-means on the L2-normalised rows of an N x d array.

    Each centre takes the nearest row that is not taken, of ties the lowest, the centres in their order; of equal rows
    only the first counts. Raises UserError as greedy_map does, and where fewer than `count` rows differ.
    """
    unit = embeddings.astype(np.float64) / row_norms(embeddings)[:, None]
    first = first_copies(unit)
    if len(first) < count:
        raise UserError(f"only {len(first)} of {count} rows can be chosen: every other row repeats one of these; "
                        "take a smaller count")
    unit = unit[first]
    with threadpool_limits(1):  # threads would add up a centre in another order each time
        centres = KMeans(count, n_init=1, random_state=seed).fit(unit).cluster_centers_
    free, chosen = np.ones(len(unit), dtype=bool), []
    for centre in centres:
        distance = np.where(free, ((unit - centre) ** 2).sum(axis=1), np.inf)
        chosen.append(int(distance.argmin()))
        free[chosen[-1]] = False
    return [first[row] for row in chosen]


def select(embeddings: NDArray[Any], count: int, by: Selection, seed: int) -> list[int]:
    """Choose `count` rows of an N x d array as declared. Raises UserError where there are fewer."""
    if by.method == "dpp":
        return greedy_map(embeddings, count, by.kernel, by.gamma)
    require_count(count, len(embeddings))
    if by.method == "random":
        return random_rows(len(embeddings), count, seed)
    return nearest_to_centres(embeddings, count, seed)


def reserve(embeddings: NDArray[Any], chosen: list[int], by: Selection, seed: int) -> list[int]:
    """Order the rows that were not chosen, a quarter as many at most: they replace those whose thoughts are rejected.

    A DPP goes on where it stopped; once no row adds anything, a new one begins among the rest. Else at random.
    """
    most = min(len(embeddings) - len(chosen), -(-len(chosen) // 4))
    if by.method != "dpp":
        rest = sorted(set(range(len(embeddings))) - set(chosen))
        return [rest[row] for row in random_rows(len(rest), most, seed)]
    order = greedy_order(embeddings, len(chosen) + most, by.kernel, by.gamma)
    while len(order) < len(chosen) + most:
        rest = sorted(set(range(len(embeddings))) - set(order))
        order += [rest[row] for row in greedy_order(
            embeddings[rest], len(chosen) + most - len(order), by.kernel, by.gamma)]
    return order[len(chosen):]


def read_embeddings(path: Path) -> NDArray[Any]:
    """Map an .npy file into memory, without unpickling anything. Raises UserError for any other content."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy raises many kinds for bytes that are no .npy file
        raise UserError(f"{path}: not an .npy array of numbers ({error}); data_builders.embed makes one") from None


def _main(given: argparse.Namespace) -> None:
    count, by, seed = given.count, Selection(method=given.method, kernel=given.kernel, gamma=given.gamma), given.seed
    if given.run:
        run = load_run(given.run)
        declared = run.experiment
        count, by, seed = run.select, declared.stage1.selection, declared.seed
    settings = {"count": count, "seed": seed, **by.model_dump()}
    if up_to_date(given.out, [given.embeddings], settings):
        print(f"{given.out}: made before, from the same embeddings")
        return
    embeddings = read_embeddings(given.embeddings)
    try:
        chosen = select(embeddings, count, by, seed)
    except UserError as error:
        where = f" (stage1.select of run {given.run})" if given.run else ""
        raise UserError(f"{given.embeddings}: {error}{where}") from None
    if given.run:
        write_json(given.out.with_name("reserve.json"), reserve(embeddings, chosen, by, seed))
    write_json(given.out, chosen, [given.embeddings], settings=settings, rows=len(embeddings),
               dimensions=embeddings.shape[1])


def main() -> None:
    """Choose rows of an embedding file."""
    parser = cli.parser("data_builders.selection", "Choose rows of an embedding file: DPP, random or k-means.", """
python -m data_builders.selection --embeddings E.npy --count 1000 --out ids.json
python -m data_builders.selection --embeddings E.npy --count 1000 --out ids.json --kernel rbf --gamma 2
python -m data_builders.selection --embeddings E.npy --count 1000 --out ids.json --method kmeans --seed 7""")
    parser.add_argument("--embeddings", required=True, type=Path, help="an .npy file, N x d, one row for each text")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--count", type=int, help="how many rows to choose")
    size.add_argument("--run", help="a declared run: as its stage1 says")
    parser.add_argument("--out", required=True, type=Path, help="JSON list of row numbers, in the order of choice")
    parser.add_argument("--method", default="dpp", choices=["dpp", "random", "kmeans"],
                        help="dpp (the default): greedy MAP for a determinantal point process")
    parser.add_argument("--kernel", default="linear", choices=["linear", "rbf"], help="of the DPP, on normalised rows")
    parser.add_argument("--gamma", type=float, default=1.0, help="of exp(-gamma |x - y|^2), for --kernel rbf")
    parser.add_argument("--seed", type=int, default=42, help="of random and kmeans (default: 42)")
    cli.run(parser, _main)


if __name__ == "__main__":
    main()
