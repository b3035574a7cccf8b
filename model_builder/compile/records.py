"""Tuning records: the fastest known schedule of each kernel, in one JSON file a CPU level.

A record is found by the structure of its kernel, whatever network the kernel belongs to.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import tvm
from tvm.s_tir import meta_schedule as ms

RECORDS: Final = Path(__file__).parent / "tuning"


def database(kernels: list[ms.ExtractedTask], level: str, folder: Path) -> ms.database.MemoryDatabase:
    """The best known schedule of each kernel: the record of the level itself, else that of another level."""
    known: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem == level):
        known |= read(path)
    found = ms.database.MemoryDatabase()
    for kernel in kernels:
        if record := known.get(key(kernel.dispatched[0])):
            workload = found.commit_workload(kernel.dispatched[0])
            found.commit_tuning_record(ms.database.TuningRecord.from_json(record["trial"], workload))
    return found


def key(kernel: tvm.IRModule) -> str:
    """TVM's structural hash of a kernel."""
    return str(ms.database.Workload(kernel).as_json()[0])


def seconds(trial: Any) -> float:
    """Mean of the times that were measured."""
    return float(np.mean([float(each) for each in trial[1]]))


def read(path: Path) -> dict[str, Any]:
    """The records of a level by the hash of their kernel: its name, the trial, and the CPU that it was measured on."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep(path: Path, key: str, record: dict[str, Any]) -> None:
    """Add a record to those of other kernels. It replaces a slower one of its own kernel and CPU."""
    records = read(path)
    older = records.get(key)
    if older and older["cpu"] == record["cpu"] and seconds(older["trial"]) <= seconds(record["trial"]):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{json.dumps(key)}: {json.dumps(record)}" for key, record in {**records, key: record}.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def tuned_on(path: Path) -> tuple[str, ...]:
    """The CPUs that a level's records were measured on."""
    return tuple(sorted({record["cpu"] for record in read(path).values()}))
