"""Settings come from LPR_ variables, with limits, and the thread count from what this process may use."""

import math
import os

import pytest
from pydantic import ValidationError

from service import cpu
from service.settings import REPOSITORY, ClientSettings, Settings, faults


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("LPR_")]:
        monkeypatch.delenv(name)


def test_defaults_serve_the_fast_variant_of_the_repository():
    settings = Settings()
    assert (settings.backend, settings.artifacts) == ("tvm-pruned-int8", REPOSITORY / "artifacts")
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.threads == cpu.available() >= 1


def test_variables_override_the_defaults(monkeypatch, tmp_path):
    for name, value in {"BACKEND": "tiny", "ARTIFACTS": str(tmp_path), "PORT": "81", "THREADS": "3"}.items():
        monkeypatch.setenv(f"LPR_{name}", value)
    settings = Settings()
    assert (settings.backend, settings.artifacts, settings.port, settings.threads) == ("tiny", tmp_path, 81, 3)


def test_an_empty_variable_is_none(monkeypatch):
    for name in ("BACKEND", "PORT", "API_KEYS"):
        monkeypatch.setenv(f"LPR_{name}", "")
    assert (Settings().backend, Settings().port, len(Settings().api_keys)) == ("tvm-pruned-int8", 8000, 0)


@pytest.mark.parametrize(("workers", "threads"), [("1", 5), ("2", 2), ("9", 1)])
def test_processes_share_the_cpus(monkeypatch, workers, threads):
    monkeypatch.setattr(cpu, "available", lambda: 5)
    monkeypatch.setenv("LPR_WORKERS", workers)
    assert Settings().threads == threads


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "x"),
        ("PORT", "65536"),
        ("THREADS", "0"),
        ("WORKERS", "0"),
        ("QUEUE", "5"),
        ("QUEUE_BYTES", "5"),
        ("DRAIN_S", "1"),
        ("DEADLINE_MS", "0"),
        ("BATCH_WAIT_MS", "-1"),
        ("UPLOAD_S", "0"),
    ],
)
def test_senseless_values_are_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"LPR_{name}", value)
    with pytest.raises(ValidationError, match=f"(?i){name}"):
        Settings()


def test_what_is_wrong_is_said_by_variable_and_without_keys(monkeypatch):
    def said(**variables: str) -> list[str]:
        with monkeypatch.context() as changed:
            for name, value in variables.items():
                changed.setenv(f"LPR_{name}", value)
            with pytest.raises(ValidationError) as refused:
                Settings()
        return faults(refused.value)

    assert [sentence.split(":")[0] for sentence in said(PORT="x", QUEUE="0")] == ["LPR_PORT", "LPR_QUEUE"]
    (sentence,) = said(API_KEYS="long enough to be one, secret")
    assert sentence.startswith("LPR_API_KEYS: a key needs at least 16")
    assert "secret" not in sentence
    assert said(QUEUE="5") == ["LPR_QUEUE (5) must be at least LPR_MAX_IMAGES (32)"]


def test_every_setting_is_documented():
    fields = Settings.model_fields | ClientSettings.model_fields
    assert [name for name, field in fields.items() if not field.description] == []
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [name for name in fields if f"`LPR_{name.upper()}" not in readme] == []


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, 2),
        ("0::/elsewhere", {"cpu.max": "300000 100000"}, 3),
        ("4:cpu,cpuacct:/a\n0::/", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("4:memory:/", {"cpu.max": "100000 100000"}, math.inf),
        ("0::/", {}, math.inf),
        ("0::/", {"cpu.max": "rubbish"}, math.inf),
    ],
)
def test_cgroup_limits(tmp_path, membership, files, limit):
    (tmp_path / "membership").write_text(membership)
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert cpu.cgroup_limit(tmp_path / "cgroup", tmp_path / "membership") == limit


def test_without_cgroups_there_is_no_limit(tmp_path):
    assert cpu.cgroup_limit(tmp_path, tmp_path / "none") == math.inf


def test_a_share_of_one_cpu_still_gives_a_thread(monkeypatch):
    monkeypatch.setattr(cpu, "cgroup_limit", lambda: 0.5)
    assert cpu.available() == 1


def test_the_cpu_tells_its_instruction_sets(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\nflags\t\t: fpu\n")
    assert cpu.flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "avx512_vnni"}
    assert cpu.flags(tmp_path / "none") == frozenset()
