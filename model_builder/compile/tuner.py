"""The tuner: MetaSchedule measures schedules of every kernel worth it, and the fastest become `records`."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.analysis import estimate_tir_flops
from tvm.s_tir.meta_schedule.relax_integration import extract_tasks, extracted_tasks_to_tune_contexts

from model_builder import evaluate
from model_builder.compile import compiler, records
from model_builder.compile.compiler import Level, Network, Passes, Size
from model_builder.kernels import tuning_space

WORK: Final = Path("runs") / "tuning"

_TRIALS_A_ROUND = 16  # compiled and measured before the cost model learns
_FAILED = 1e9  # seconds, less than MetaSchedule's 1e10 for a schedule that did not run
_WORKER_TIMEOUT = 60  # seconds; each round starts new workers, which import TVM (and torch with it) first


def tune(
    network: Network,
    level: Level,
    trials: int,
    passes: Passes | None = None,
    folder: Path = records.RECORDS,
    sizes: Sequence[Size] = (),
) -> None:
    """Measure `trials` schedules of every kernel worth it, the largest first, and keep the best records in `folder`.

    Needs a quiet machine. All that was measured is kept in `WORK`/<level>, so that the same call continues where an
    earlier one was stopped. Raises ValueError where no schedule of a kernel ran.
    """
    work = WORK / level.name
    work.mkdir(parents=True, exist_ok=True)
    os.environ["TVM_NUM_THREADS"] = "1"  # read by the process that measures
    search = _search(work)
    kernels = extract_tasks(compiler.lowered(network, level, passes or Passes(), sizes), level.target)
    kernels = [kernel for kernel in kernels if compiler.worth_tuning(kernel.dispatched[0]["main"])]
    kernels.sort(key=lambda kernel: -kernel.weight * estimate_tir_flops(kernel.dispatched[0]))
    for kernel in (progress := tqdm(kernels, unit="kernel", desc=level.name)):
        progress.set_postfix_str(kernel.task_name)
        key = records.key(kernel.dispatched[0])
        if (left := trials - len(tried_in(work).get(key, []))) > 0:
            _measure(kernel, level, left, work, search)
        tried = tried_in(work).get(key, [])
        fastest = min(tried, key=records.seconds, default=None)
        if fastest is None or records.seconds(fastest) >= _FAILED:
            raise ValueError(f"none of {len(tried)} schedules of {kernel.task_name} ran; see {work / 'logs'}")
        took = 1e6 * records.seconds(fastest)
        progress.write(f"{kernel.task_name}: {took:.1f} us, the best of {len(tried)} schedules")
        record = {"kernel": kernel.task_name, "cpu": evaluate.machine(), "trials": len(tried), "trial": fastest}
        records.keep(folder / f"{level.name}.json", key, record)


def _search(work: Path) -> dict[str, Any]:
    """The parts of MetaSchedule that all kernels share, as its arguments."""
    cores = len(os.sched_getaffinity(0))
    initialize = _without_intrinsics()
    initialize()
    return {
        "work_dir": str(work),
        "builder": ms.builder.LocalBuilder(max_workers=cores, timeout_sec=_WORKER_TIMEOUT, initializer=initialize),
        "runner": ms.runner.LocalRunner(timeout_sec=_WORKER_TIMEOUT, initializer=initialize),
        "database": ms.database.JSONDatabase(work_dir=str(work)),
        "cost_model": ms.cost_model.XGBModel(num_tuning_cores=cores),
    }


def _measure(kernel: ms.ExtractedTask, level: Level, trials: int, work: Path, search: dict[str, Any]) -> None:
    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.WARNING)  # all of it goes to `work`/logs
    contexts, weights = extracted_tasks_to_tune_contexts(
        [kernel],
        str(work),
        space=tuning_space.generator(level.lanes),
        strategy=tuning_space.search(),
        num_threads=len(os.sched_getaffinity(0)),
    )
    a_round = min(trials, _TRIALS_A_ROUND)
    ms.tune_tasks(tasks=contexts, task_weights=weights, max_trials_global=trials, num_trials_per_iter=a_round, **search)


def _without_intrinsics() -> Callable[[], None]:
    """For every process that tunes: keep TVM from registering its tensor intrinsics, which no kernel here uses.

    It parses them from scripts, which takes each worker half a minute. A closure, because workers get it by value.
    """

    def initialize() -> None:
        import sys
        import types

        name = "tvm.s_tir.tensor_intrin"
        sys.modules.setdefault(name, types.ModuleType(name))

    return initialize


def tried_in(work: Path) -> dict[str, list[Any]]:
    """The trials in the database of a folder, failed ones too, by the hash of their kernel."""
    workloads, trials = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        for path in (work / "database_workload.json", work / "database_tuning_record.json")
    )
    found: dict[str, list[Any]] = {key: [] for key, _ in workloads}
    for index, trial in trials:
        found[workloads[index][0]].append(trial)
    return found
