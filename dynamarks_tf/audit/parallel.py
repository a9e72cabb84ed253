"""Audits in several processes: each trains surrogates of its own, and the rows are those of one process."""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dynamarks_tf.audit.attack_runner import AttackRunner, Recipe
from dynamarks_tf.audit.scenario import Scenario
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.watermark import marking


class Processes:
    """Processes that share the work of an audit.

    Args:
        number: how many, at least 2.
        modules: modules to import in each first: those that register layers of the owner's.
        allow_code: whether to run code inside the owner's file, such as that of `Lambda` layers.

    Raises:
        ArgumentError: joblib is missing.
    """

    def __init__(self, number: int, *, modules: Sequence[str] = (), allow_code: bool = False) -> None:
        try:
            importlib.import_module("joblib")
        except ImportError:
            raise ArgumentError(
                "Several processes need joblib, which comes with scikit-learn: pip install joblib"
            ) from None
        self._number = number
        self._modules = tuple(modules)
        self._allow_code = allow_code

    def map(self, recipe: Recipe, groups: Sequence[Sequence[Scenario]]) -> Iterator[list[dict[str, Any]]]:
        """Yields the rows of each group, in the order of the groups, as soon as it and those before it are done."""
        from joblib import Parallel, delayed

        with tempfile.TemporaryDirectory(prefix="dynamarks-audit-") as folder:
            paths: dict[str, str] = {}
            for name, model in (("owner", recipe.owner), ("rival", recipe.rival)):
                if model is not None:
                    paths[name] = str(Path(folder) / f"{name}.keras")
                    model.save(paths[name])
            work = delayed(_rows)
            found = Parallel(n_jobs=self._number, return_as="generator")(
                work(paths, recipe.options, self._modules, self._allow_code, tuple(group)) for group in groups
            )
            yield from found


def _rows(
    paths: dict[str, str],
    options: dict[str, Any],
    modules: tuple[str, ...],
    allow_code: bool,
    scenarios: tuple[Scenario, ...],
) -> list[dict[str, Any]]:
    """What a process does with one group of scenarios."""
    for module in modules:
        importlib.import_module(module)
    models = {name: _loaded(path, allow_code) for name, path in paths.items()}
    return list(AttackRunner(models["owner"], rival=models.get("rival"), **options).with_surrogate(scenarios))


@functools.lru_cache(2)
def _loaded(path: str, allow_code: bool) -> Any:
    return marking.load_model(path, allow_code=allow_code)
