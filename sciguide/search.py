"""Searching the numbers of a policy by its score alone: random search, and the covariance matrix adaptation of CMA-ES
(Hansen 2016, arXiv 1604.00772; Hansen's `cma`).

Both propose generations of candidates. All candidates of a generation are scored on the same problems and noise, the
next generation has others. What a search has seen is the list of its scores, and from those and its seed it finds its
way back: that list is all there is to save.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sciguide.atomic import write_atomically


class Search(Protocol):
    """`population`: candidates per generation; `generations`: of them; `best`: the numbers to take at the end."""

    population: int
    generations: int
    best: NDArray[np.float64]

    def ask(self) -> list[NDArray[np.float64]]: ...

    def tell(self, candidates: list[NDArray[np.float64]], scores: Sequence[float]) -> None: ...


class RandomSearch:
    """Draws around the best so far, which stands for election again in every generation; the first is 0. The radius
    shrinks from `widest` to `narrowest`."""

    def __init__(self, size: int, evaluations: int, seed: int, widest: float = 2.0, narrowest: float = 0.25) -> None:
        self.population = min(8, evaluations)
        self.generations = evaluations // self.population
        self.best = np.zeros(size)
        self.generator = np.random.default_rng(seed)
        self.radii = np.geomspace(widest, narrowest, self.generations).tolist()

    def ask(self) -> list[NDArray[np.float64]]:
        radius = self.radii.pop(0)
        draws = self.generator.standard_normal((self.population - 1, len(self.best)))
        return [self.best, *(self.best + radius * draws)]

    def tell(self, candidates: list[NDArray[np.float64]], scores: Sequence[float]) -> None:
        self.best = candidates[int(np.argmax(scores))]


class CMA:
    """CMA-ES from 0 with initial standard deviation `radius`; above 20 numbers with a diagonal covariance."""

    def __init__(self, size: int, evaluations: int, seed: int, radius: float = 1.0) -> None:
        from cma import CMAEvolutionStrategy

        generator = np.random.default_rng(seed)
        options = {
            # its own generator, so that the global one of numpy is neither seeded nor read
            "randn": lambda *shape: generator.standard_normal(shape),
            "seed": math.nan,
            "verbose": -9,
            "CMA_diagonal": size > 20,
            "popsize": min(4 + int(3 * math.log(size)), evaluations),
        }
        self.strategy = CMAEvolutionStrategy(np.zeros(size), radius, options)
        self.population = self.strategy.popsize
        self.generations = evaluations // self.population

    @property
    def best(self) -> NDArray[np.float64]:
        """The mean of the last distribution: the best candidate was partly lucky."""
        return np.asarray(self.strategy.mean)

    def ask(self) -> list[NDArray[np.float64]]:
        return self.strategy.ask()

    def tell(self, candidates: list[NDArray[np.float64]], scores: Sequence[float]) -> None:
        self.strategy.tell(candidates, [-s for s in scores])


def search(
    make: Callable[[int], Search],
    score: Callable[[NDArray[np.float64], int], float],
    evaluations: int,
    state: Path | None = None,
    report: Callable[[int, float], None] = lambda done, mean: None,
) -> NDArray[np.float64]:
    """The best numbers found with at most `evaluations` calls of `score(candidate, generation)`, large is good.

    `make(evaluations)`: the search; `state`: a JSON file that holds the scores and from which a search goes on;
    `report(done, mean)`: called after every generation with the evaluations so far and the generation's mean score.
    """
    run = make(evaluations)
    seen: list[list[float]] = json.loads(state.read_text()) if state and state.is_file() else []
    for generation in range(run.generations):
        candidates = run.ask()
        if generation == len(seen):
            seen.append([float(score(c, generation)) for c in candidates])
            if state:
                text = json.dumps(seen)
                write_atomically(state, lambda part, text=text: part.write_text(text))
        run.tell(candidates, seen[generation])
        report((generation + 1) * run.population, float(np.mean(seen[generation])))
    return run.best
