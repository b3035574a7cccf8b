"""CPUs: how many this process may use, and their instruction sets."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CPUINFO = Path("/proc/cpuinfo")


def available() -> int:
    """CPUs of the affinity mask, or fewer if a cgroup limits them; at least 1. `os.cpu_count` ignores both."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(affinity, cgroup_limit())))


def flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Instruction sets of the CPU as Linux names them, such as "avx512_vnni"; empty without /proc/cpuinfo."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), ()))


def cgroup_limit(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """The tightest CPU limit of this process's cgroup and all its ancestors (v2 or v1), or infinity."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    limits = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            root = cgroups if controllers == "" else cgroups / "cpu"
            own = root / path.lstrip("/")
            limits += [_limit(folder) for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return min(limits)


def _limit(folder: Path) -> float:
    """CPUs that one cgroup folder allows: quota over period, from one file (v2) or two (v1)."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota in ("max", "-1") else float(quota) / float(period)
