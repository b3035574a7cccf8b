"""Settings come from LPR_ variables, with limits, and the thread count from what this process may use."""

import math
import os
from pathlib import Path
from typing import get_origin

import pytest
from pydantic import ValidationError

from service import bundled, host
from service.settings import REPOSITORY, ClientSettings, Settings, faults, listing, warnings

KEY = "a key of 20 letters."


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("LPR_")]:
        monkeypatch.delenv(name)


def test_defaults_serve_the_fast_variant_of_the_repository():
    settings = Settings()
    assert (settings.variant, settings.artifacts) == ("world", REPOSITORY / "artifacts")
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.threads == host.available() >= 1


def test_variables_override_the_defaults(monkeypatch, tmp_path):
    for name, value in {"VARIANT": "tiny", "ARTIFACTS": str(tmp_path), "PORT": "81", "THREADS": "3"}.items():
        monkeypatch.setenv(f"LPR_{name}", value)
    settings = Settings()
    assert (settings.variant, settings.artifacts, settings.port, settings.threads) == ("tiny", tmp_path, 81, 3)


def test_an_empty_variable_is_none(monkeypatch):
    for name in ("VARIANT", "PORT", "API_KEYS"):
        monkeypatch.setenv(f"LPR_{name}", "")
    assert (Settings().variant, Settings().port, len(Settings().api_keys)) == ("world", 8000, 0)


@pytest.mark.parametrize(("workers", "threads"), [("1", 5), ("2", 2), ("9", 1)])
def test_processes_share_the_cpus(monkeypatch, workers, threads):
    monkeypatch.setattr(host, "available", lambda: 5)
    monkeypatch.setenv("LPR_WORKERS", workers)
    assert Settings().threads == threads


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "x"),
        ("PORT", "65536"),
        ("THREADS", "0"),
        ("WORKERS", "0"),
        ("QUEUE", "0"),
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


def bounded() -> list[str]:
    """The settings that are numbers."""
    return [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e300", str(10**30), "9" * 5000, "-1"])
def test_a_number_has_bounds_whichever_setting_it_is(monkeypatch, value):
    assert len(bounded()) >= 13
    for name in bounded():
        with monkeypatch.context() as changed:
            changed.setenv(f"LPR_{name.upper()}", value)
            with pytest.raises(ValidationError) as refused:
                Settings()
        (sentence,) = faults(refused.value)
        assert sentence.startswith(f"LPR_{name.upper()}: ")
        assert len(sentence) < 250


def test_a_bound_says_why_and_is_in_the_help(monkeypatch):
    assert refused(monkeypatch, UPLOAD_S="inf").startswith("LPR_UPLOAD_S: must be from 0.1 to 3,600: in less nothing")
    assert "LPR_UPLOAD_S" in listing()
    assert "Allowed: 0.1 to 3,600." in listing()
    assert "LPR_WORKERS (60) times LPR_THREADS (60)" in refused(monkeypatch, WORKERS="60", THREADS="60")
    assert "LPR_BATCH_WAIT_MS" in refused(monkeypatch, BATCH_WAIT_MS="900", DEADLINE_MS="800")


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """What is said where nothing but these is set."""
    with monkeypatch.context() as changed:
        for name, value in variables.items():
            changed.setenv(f"LPR_{name}", value)
        with pytest.raises(ValidationError) as error:
            Settings()
    (sentence,) = faults(error.value)
    return sentence


def test_every_empty_variable_is_none(monkeypatch):
    default = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"LPR_{name.upper()}", "")
    assert Settings() == default.model_copy(update={"finder": None})  # which is "no finder", as none is none elsewhere


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_a_variable_of_blanks_is_a_mistake(monkeypatch, name):
    assert refused(monkeypatch, **{name: "  "}).startswith(f"LPR_{name}: ")


def test_a_list_without_an_entry_is_a_mistake(monkeypatch):
    lists = [name for name, field in Settings.model_fields.items() if get_origin(field.annotation) is tuple]
    assert {"api_keys", "admin_keys"} <= {*lists}
    for name in lists:
        assert refused(monkeypatch, **{name.upper(): " , "}).startswith(f"LPR_{name.upper()}: holds commas")


@pytest.mark.parametrize("key", ["ключ" * 5, "é" * 20, "a key with a \t in it", "a key with \x7f in it", "k" * 1025])
def test_a_key_that_no_header_carries_is_refused(monkeypatch, key):
    for name in ("API_KEYS", "ADMIN_KEYS"):
        sentence = refused(monkeypatch, **{name: key})
        assert sentence.startswith(f"LPR_{name}: a key is 1 to 1,024 printable characters")
        assert key not in sentence
    monkeypatch.setenv("LPR_API_KEY", key)
    with pytest.raises(ValidationError, match="printable"):
        ClientSettings()


@pytest.mark.parametrize(
    ("unknown", "nearest"), [("LPR_PROT", "LPR_PORT"), ("lpr_hots", "LPR_HOST"), ("LPR_APIKEYS", "LPR_API_KEYS")]
)
def test_an_unknown_name_is_refused_with_the_nearest(monkeypatch, unknown, nearest):
    monkeypatch.setenv(unknown, "1")
    assert refused(monkeypatch).startswith(f"{unknown}: there is no such setting; is {nearest} meant?")


def test_an_unknown_name_is_not_echoed_without_end_or_raw(monkeypatch):
    monkeypatch.setenv("LPR_\x1b[31m\n" + 5000 * "x", "1")
    sentence = refused(monkeypatch)
    assert len(sentence) < 250
    assert "\x1b" not in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("old", ["LPR_BACKEND", "lpr_backend"])
def test_an_old_name_works_with_a_warning(monkeypatch, tmp_path, old):
    assert [*warnings()] == []
    monkeypatch.setenv(old, "tiny")
    monkeypatch.setenv("LPR_MEMORY", str(tmp_path / "file"))
    assert (Settings().variant, Settings().switch_file) == ("tiny", tmp_path / "file")
    assert Settings(variant="other").variant == "other"  # as `lpr read --variant` does
    assert [sentence.split(":")[0] for sentence in warnings()] == [
        "LPR_BACKEND is now called LPR_VARIANT",
        "LPR_MEMORY is now called LPR_SWITCH_FILE",
    ]
    monkeypatch.setenv("LPR_MEMORY", "")
    assert Settings().switch_file is None
    assert "LPR_BACKEND is the old name of LPR_VARIANT, and both are set" in refused(monkeypatch, VARIANT="tiny")
    monkeypatch.setenv("LPR_VARIANT", "")
    assert Settings().variant == "tiny"


def test_an_old_name_is_checked_as_the_new_one(monkeypatch):
    assert refused(monkeypatch, BACKEND="../tiny").startswith("LPR_VARIANT: must be the name of a folder")
    assert refused(monkeypatch, MEMORY=" ").startswith("LPR_SWITCH_FILE: holds blanks alone")


def test_names_of_the_client_are_known(monkeypatch):
    monkeypatch.setenv("LPR_URL", "http://127.0.0.1:8000")
    monkeypatch.setenv("LPR_API_KEY", KEY)
    assert Settings().api_keys == ()
    assert "LPR_API_KEYS" in refused(monkeypatch, HOST="0.0.0.0")  # which would be open, by a letter
    monkeypatch.setenv("LPR_API_KEYS", KEY)
    monkeypatch.setenv("LPR_HOST", "0.0.0.0")
    assert len(Settings().api_keys) == 1


@pytest.mark.parametrize("name", ["../artifacts/tvm", "tvm/", "/tvm", ".", "..", ".hidden", "a\\b", "a\nb", "x" * 256])
def test_a_variant_is_named_and_not_by_a_path(monkeypatch, name):
    for setting in ("VARIANT", "SHADOW"):
        assert "must be the name of a folder below LPR_ARTIFACTS" in refused(monkeypatch, **{setting: name})


@pytest.mark.parametrize("host", ["256.1.1.1", "127.0.0.1:8000", "http://127.0.0.1", "a..b", 80 * "x", "[::1]"])
def test_a_host_that_is_none_is_refused(monkeypatch, host):
    assert refused(monkeypatch, HOST=host).startswith("LPR_HOST: is not the address or the name of a host")


@pytest.mark.parametrize(
    ("host", "keys", "choice"),
    [
        ("127.0.0.1", "", True),
        ("127.9.9.9", "", True),
        ("::1", "", True),
        ("0.0.0.0", "", False),
        ("::", "", False),
        ("192.0.2.1", "", False),
        ("0.0.0.0", KEY, True),
    ],
)
def test_requests_choose_where_keys_or_the_loopback_keep_others_out(monkeypatch, host, keys, choice):
    monkeypatch.setenv("LPR_HOST", host)
    monkeypatch.setenv("LPR_API_KEYS", keys)
    assert Settings().choice is choice
    monkeypatch.setenv("LPR_CHOICE", str(int(not choice)))
    assert Settings().choice is not choice


def test_administrators_alone_leave_reading_open(monkeypatch):
    monkeypatch.setenv("LPR_HOST", "0.0.0.0")
    monkeypatch.setenv("LPR_ADMIN_KEYS", KEY)
    assert not Settings().choice


def test_a_switch_file_that_cannot_be_one_is_said(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("tiny 0123")
    monkeypatch.setenv("LPR_SWITCH_FILE", str(tmp_path / "file"))
    assert Settings().switch_file == tmp_path / "file"
    monkeypatch.setenv("LPR_SWITCH_FILE", str(tmp_path / "new"))
    assert Settings().switch_file == tmp_path / "new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing stays of the check
    os.mkfifo(tmp_path / "pipe")
    for path, reason in {
        tmp_path: "is not a file",
        tmp_path / "pipe": "is not a file",
        Path("/dev/zero"): "is not a file",
        tmp_path / "missing" / "file": "there is no folder",
        tmp_path / "file" / "file": "there is no folder",
        Path("/proc/file"): "no file can be written",
        tmp_path / ("x" * 250): "no file can be written",
    }.items():
        sentence = refused(monkeypatch, SWITCH_FILE=str(path))
        assert sentence.startswith("LPR_SWITCH_FILE: ")
        assert reason in sentence


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"\0", b"../tiny 1", b"a b c", b"tiny\n1", b" ", 2000 * b"x", b"{}\n"]
)
def test_a_switch_file_that_holds_something_else_is_said(monkeypatch, tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert "does not hold the name of a variant" in refused(monkeypatch, SWITCH_FILE=str(tmp_path / "file"))


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
    assert said(QUEUE_BYTES="5") == ["LPR_QUEUE_BYTES (5) must be at least LPR_MAX_BYTES (16777216)"]


def test_every_setting_is_documented():
    fields = Settings.model_fields | ClientSettings.model_fields
    assert [name for name, field in fields.items() if not field.description] == []
    page = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    assert [name for name in fields if f"| `LPR_{name.upper()}` |" not in page] == []


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
    assert host.cgroup_limit(tmp_path / "cgroup", tmp_path / "membership") == limit


def test_without_cgroups_there_is_no_limit(tmp_path):
    assert host.cgroup_limit(tmp_path, tmp_path / "none") == math.inf


def test_a_share_of_one_cpu_still_gives_a_thread(monkeypatch):
    monkeypatch.setattr(host, "cgroup_limit", lambda: 0.5)
    assert host.available() == 1


def test_the_cpu_tells_its_instruction_sets(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\nflags\t\t: fpu\n")
    assert host.flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "avx512_vnni"}
    assert host.flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("held", "installed", "expected"),
    [
        ("fast quantized", "tvm onnxruntime", "finder-fast"),
        ("fast quantized", "onnxruntime", "finder-quantized"),
        ("quantized", "tvm", "finder-quantized"),
        ("fast", "torch", "finder-fast"),  # whose error tells what to install
        ("", "tvm", None),
    ],
)
def test_the_default_finder_is_one_that_runs_here(held, installed, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "find_spec", lambda engine: engine if engine in installed.split() else None)
    for name in held.split():
        (tmp_path / f"finder-{name}").mkdir()
    assert bundled.finder(tmp_path) == expected


def test_regions_are_codes_of_two_letters(monkeypatch):
    assert Settings().regions == ()
    monkeypatch.setenv("LPR_REGIONS", "DE, gb")
    assert Settings().regions == ("de", "gb")
    monkeypatch.setenv("LPR_REGIONS", "germany")
    with pytest.raises(ValidationError) as error:
        Settings()
    assert "ISO 3166" in faults(error.value)[0]
