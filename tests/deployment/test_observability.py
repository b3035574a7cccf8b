"""Alarms and dashboard: checked with promtool, and asked of a real Prometheus that scrapes a real server."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.processes import program, started
from tests.support.prometheus import DOCKER, RULES, promtool
from tests.support.samples import FOLDER, SAMPLES
from tests.support.servers import eventually

DASHBOARD = DOCKER / "grafana" / "dashboards" / "lpr.json"
STAGES = {"decode", "find", "rectify", "preprocess", "queue", "inference", "postprocess", "total"}
VARIABLES = {"$__rate_interval": "5m", "$backend": ".*", "$instance": ".*"}

Ask = httpx.Client


@pytest.mark.slow
def test_the_rules_raise_the_alarms_that_they_should(tmp_path):
    promtool("check", "config", DOCKER / "prometheus" / "prometheus.yml")
    promtool("check", "rules", RULES)
    tests = tmp_path / "tests.yml"
    cases = (Path(__file__).parent / "prometheus_rules.yml").read_text(encoding="utf-8")
    tests.write_text(f"rule_files: [{RULES}]\n{cases}", encoding="utf-8")
    assert "SUCCESS" in promtool("test", "rules", tests)


def test_every_alarm_has_a_test():
    rules = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    cases = (Path(__file__).parent / "prometheus_rules.yml").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in rules if "alert" in rule and rule["alert"] not in cases] == []


@contextmanager
def prometheus(server: str, folder: Path) -> Iterator[Ask]:
    """A real Prometheus with this repository's configuration, in a hurry, that scrapes the server."""
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "250ms", "scrape_timeout": "200ms", "evaluation_interval": "250ms"}
    config["rule_files"] = [str(RULES)]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [server.removeprefix("http://")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = "127.0.0.1:0"
    command = [program("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    command += [f"--web.listen-address={address}", "--log.level=info"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        listening = (line for line in process.stderr if "Listening on" in line)
        bound = next(listening).rsplit("address=", 1)[1].strip()
        threading.Thread(target=process.stderr.read, daemon=True).start()
        with httpx.Client(base_url=f"http://{bound}/api/v1", timeout=10) as client:
            yield client
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory, originals: Path) -> Iterator[Ask]:
    """A Prometheus that has seen some seconds of traffic, with refused requests and a shadow."""
    folder = tmp_path_factory.mktemp("prometheus")
    with started(originals, SHADOW="other", SHADOW_SHARE="1") as server, prometheus(server.url, folder) as client:
        image = (FOLDER / SAMPLES[0][0]).read_bytes()

        def scraped() -> float:
            found = client.get("/query", params={"query": "count_over_time(up[5m])"}).json()["data"]["result"]
            return float(found[0]["value"][1]) if found else 0

        eventually(lambda: scraped() >= 1)  # a rate needs counts before and after
        for _ in range(20):
            assert httpx.post(f"{server.url}/recognize", files={"image": image}).status_code == 200
            assert httpx.post(f"{server.url}/recognize", files={"image": b""}).status_code == 400
        enough = scraped() + 3
        eventually(lambda: scraped() >= enough)
        yield client


def query(ask: Ask, text: str) -> list[dict]:
    """The samples of an instant query."""
    answer = ask.get("/query", params={"query": text}).json()
    assert answer["status"] == "success", f"{text}: {answer}"
    return answer["data"]["result"]


@pytest.mark.slow
def test_a_real_prometheus_answers_with_the_p99_of_each_stage(ask):
    found = query(ask, "histogram_quantile(0.99, sum by (stage, le) (rate(lpr_stage_seconds_bucket[5m])))")
    seconds = {sample["metric"]["stage"]: float(sample["value"][1]) for sample in found}
    assert set(seconds) == STAGES
    assert all(0 < value < 10 for value in seconds.values()), seconds
    recorded = query(ask, "lpr:stage_seconds:p99")
    assert {sample["metric"]["stage"] for sample in recorded} == STAGES
    assert {sample["metric"]["backend"] for sample in recorded} == {"tiny"}


@pytest.mark.slow
def test_the_rules_record_shares_of_real_traffic(ask):
    (low,) = query(ask, "lpr:low_confidence:share1h")
    (faults,) = query(ask, "lpr:faults:share5m")
    assert 0 <= float(low["value"][1]) <= 1
    assert float(faults["value"][1]) == 0
    assert query(ask, 'ALERTS{alertname=~"LprFaults|LprOverloaded"}') == []  # the others depend on time


def expressions() -> list[tuple[str, str]]:
    """Title and expression of every query of the dashboard."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]


@pytest.mark.slow
def test_every_panel_of_the_dashboard_shows_something(ask):
    empty = []
    for title, expression in expressions():
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        if not query(ask, expression):
            empty.append((title, expression))
    assert empty == []


@pytest.mark.slow
def test_the_dashboard_offers_the_variants_and_servers_there_are(ask):
    assert ask.get("/label/backend/values", params={"match[]": "lpr_model_info"}).json()["data"] == ["tiny"]
    variables = json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]
    assert {f"${entry['name']}" for entry in variables} >= set(VARIABLES) - {"$__rate_interval"}


def test_the_panels_of_the_dashboard_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_compose_names_pinned_images_real_paths_and_each_other():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    for service in services.values():
        if "image" in service:
            assert service["image"].rsplit(":", 1)[1].strip("v")[0].isdigit()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in compose["volumes"]
    build = services["lpr"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).exists()
    scrape = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    (target,) = scrape[0]["static_configs"][0]["targets"]
    assert target == "lpr:8000"
    assert "lpr" in services
    assert services["lpr"]["ports"][0].endswith(":8000")
    provisioning = DOCKER / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    folder = yaml.safe_load((provisioning / "dashboards" / "lpr.yml").read_text(encoding="utf-8"))
    mounted = folder["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{mounted}:ro" in services["grafana"]["volumes"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{mounted}/{DASHBOARD.name}"
