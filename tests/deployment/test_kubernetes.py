"""The manifests of Kubernetes: rendered, validated against schemas of packages, and compared with the server."""

import json
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
import yaml

from service.process.workers import GRACE_S
from service.settings import REPOSITORY, Settings
from tests.deployment.test_docker import SERVICE, instructions
from tests.support.answers import JPEG
from tests.support.images import encode
from tests.support.kubernetes import ALL, CHART, Manifest, faults, helm, inference_service, predicting_pod, rendered
from tests.support.processes import program
from tests.support.prometheus import DOCKER, RULES, promtool

ADAPTER = DOCKER / "helm" / "prometheus-adapter.yaml"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
CUSTOM = {"ServiceMonitor", "PrometheusRule"}


@pytest.fixture(scope="module")
def site() -> dict[str, Manifest]:
    """The chart with everything switched on."""
    return rendered(ALL)


@pytest.fixture(params=["chart", "inference service"])
def pod(request: pytest.FixtureRequest, site: dict[str, Manifest]) -> Manifest:
    """What a pod is made of."""
    return site["Deployment"]["spec"]["template"]["spec"] if request.param == "chart" else predicting_pod()


def test_the_chart_passes_lint():
    helm("lint", "--strict", CHART)
    helm("lint", "--strict", CHART, "--set", ALL)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize(
    ("values", "kinds"),
    [("", set()), (ALL, {"HorizontalPodAutoscaler", *CUSTOM})],
    ids=["defaults", "all"],
)
def test_the_chart_renders_what_kubernetes_takes(values, kinds, version):
    manifests = rendered(values)
    assert manifests.keys() == {"Deployment", "Service", "PodDisruptionBudget", *kinds}
    for kind in manifests.keys() - CUSTOM:
        kubernetes_validate.validate(manifests[kind], version, strict=True)


@pytest.mark.slow
def test_the_prometheus_operator_takes_its_manifests(site):
    import cloudcoil.pydantic

    cloudcoil.pydantic.BaseModel.model_config["extra"] = "forbid"  # before the models inherit it
    from cloudcoil.models.prometheus_operator import v1

    for kind in CUSTOM:
        getattr(v1, kind).model_validate(site[kind])
    with pytest.raises(ValueError, match="Extra inputs"):
        v1.ServiceMonitor.model_validate(site["ServiceMonitor"] | {"spec": {"selector": {}, "endpoint": []}})


def test_kserve_takes_the_inference_service():
    service = inference_service()
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert faults(service, "V1beta1InferenceService") == []
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": predicting_pod()}, "1.37", strict=True
    )
    (container,) = predicting_pod()["containers"]
    assert container["name"] == "kserve-container"
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]
    assert [container[probe]["httpGet"]["path"].split("/")[1] for probe in PROBES] == ["v2"] * 3


def test_what_kserve_does_not_know_is_found():
    service = inference_service()
    service["spec"]["predictor"] |= {"minReplica": 1, "maxReplicas": "10"}
    assert sorted(faults(service, "V1beta1InferenceService")) == [
        ".spec.predictor.maxReplicas: no int",
        ".spec.predictor.minReplica: no such field",
    ]


def test_every_probe_asks_for_an_address_that_the_server_answers(pod, client):
    (container,) = pod["containers"]
    asked = [container[probe]["httpGet"] for probe in PROBES]
    assert [client.get(probe["path"]).status_code for probe in asked] == [200] * 3
    (port,) = container["ports"]
    assert {probe["port"] for probe in asked} <= {port["name"], port["containerPort"]}
    assert [str(port["containerPort"])] == [rest for word, rest in instructions(SERVICE) if word == "EXPOSE"]


def test_settings_are_valid_and_a_pod_has_the_time_to_stop(pod, monkeypatch):
    (container,) = pod["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = Settings()
    assert settings.threads == int(container["resources"]["requests"]["cpu"])
    assert pod["terminationGracePeriodSeconds"] > settings.drain_s + GRACE_S
    assert pod["enableServiceLinks"] is False


def test_numbers_of_a_file_reach_the_server_as_they_stand_there(tmp_path, monkeypatch):
    """Helm reads them as floats, and would print 2e+07."""
    values = tmp_path / "values.yaml"
    settings = {"LPR_MAX_BYTES": 20_000_000, "LPR_SHADOW_SHARE": 0.25, "LPR_LOG_PLATES": True, "NOTE": "2e+07"}
    given = {"settings": settings, "stop": {"notice": 1.5, "drain": 1000}, "image": {"tag": 20261127}}
    values.write_text(json.dumps(given), encoding="utf-8")  # as YAML, Python would leave "2e+07" without quotes
    manifests = {each["kind"]: each for each in yaml.safe_load_all(helm("template", "x", CHART, "--values", values))}
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {variable["name"]: variable["value"] for variable in container["env"]}
    assert told["LPR_MAX_BYTES"] == "20000000"
    assert told["NOTE"] == "2e+07"
    assert container["image"] == "lpr:20261127"
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert (read.max_bytes, read.shadow_share, read.log_plates) == (20_000_000, 0.25, True)
    assert (read.notice_s, read.drain_s, pod["terminationGracePeriodSeconds"]) == (1.5, 1000, 1005)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("stop.drain=25.5", "/stop/drain"),
        ('stop.drain="abc"', "/stop/drain"),
        ("stop.drain=null", "drain"),
        ("stop.drain=0", "/stop/drain"),
        ("stop.drain=5", "stop.drain must be more than stop.notice"),
        ("stop.notice=-1", "/stop/notice"),
        ('stop.notice="soon"', "/stop/notice"),
        ('stop.notice="30.5"', "stop.drain must be more than stop.notice"),
        ("image.tag=1.10", "/image/tag"),
        ("replicas=1.5", "/replicas"),
        ("settings.LPR_MAX_BYTES=[1]", "/settings/LPR_MAX_BYTES"),
        ("settings.LPR_DRAIN_S=30", "LPR_DRAIN_S"),
        ("monitoring.labels.team=1", "/monitoring/labels/team"),
        ("setings.LPR_THREADS=2", "setings"),
    ],
)
def test_values_that_the_chart_cannot_use_are_refused(value, told):
    done = subprocess.run(
        [program("helm"), "template", "site", CHART, "--set-json", value], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert told in done.stderr


def test_a_fraction_may_be_given_on_the_command_line():
    """Helm's --set makes a text of it."""
    pod = rendered("stop.notice=2.5,settings.LPR_SHADOW_SHARE=0.25")["Deployment"]["spec"]["template"]["spec"]
    told = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}
    assert (told["LPR_NOTICE_S"], told["LPR_SHADOW_SHARE"]) == ("2.5", "0.25")


def test_null_unsets_a_value(tmp_path):
    values = tmp_path / "values.yaml"
    given = {"settings": {"LPR_THREADS": None, "LPR_WORKERS": None}, "secret": None}
    values.write_text(json.dumps(given | {"monitoring": {"enabled": True, "labels": {"team": None, "release": "x"}}}))
    manifests = {each["kind"]: each for each in yaml.safe_load_all(helm("template", "x", CHART, "--values", values))}
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert [variable["name"] for variable in container["env"]] == ["LPR_NOTICE_S", "LPR_DRAIN_S"]
    assert "envFrom" not in container
    for kind in CUSTOM:
        labels = manifests[kind]["metadata"]["labels"]
        assert labels["release"] == "x"
        assert "team" not in labels


@pytest.mark.parametrize("enabled", [True, False])
def test_another_chart_may_have_it_as_a_dependency_with_a_condition(tmp_path, enabled):
    shutil.copytree(CHART, tmp_path / "charts" / "lpr")
    wanted = {"name": "lpr", "version": "0.1.0", "condition": "lpr.enabled"}
    chart = {"apiVersion": "v2", "name": "gate", "version": "1.0.0", "dependencies": [wanted]}
    (tmp_path / "Chart.yaml").write_text(json.dumps(chart), encoding="utf-8")
    (tmp_path / "values.yaml").write_text(json.dumps({"lpr": {"enabled": enabled, "replicas": 3}}), encoding="utf-8")
    manifests = [each for each in yaml.safe_load_all(helm("template", "x", tmp_path)) if each]
    replicas = [each["spec"]["replicas"] for each in manifests if each["kind"] == "Deployment"]
    assert replicas == ([3] if enabled else [])


def test_a_pod_is_nobody_and_may_nothing(pod):
    (user,) = (rest for word, rest in instructions(SERVICE) if word == "USER")
    account = pod["securityContext"]
    assert f"{account['runAsUser']}:{account['runAsGroup']}" == user
    assert account["runAsNonRoot"] is True
    assert account["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {"tmp": "/tmp"}  # noqa: S108
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp"]


def test_the_selectors_find_the_pods_and_keys_come_from_the_secret(site):
    labels = site["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert site[kind]["spec"]["selector"]["matchLabels"].items() <= labels
    assert site["Service"]["spec"]["selector"].items() <= labels
    monitor = site["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= site["Service"]["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == site["Service"]["spec"]["ports"][0]["name"]
    (container,) = site["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]


def test_the_alarms_are_those_of_the_one_file(site, tmp_path):
    assert (CHART / "rules.yml").resolve() == RULES
    assert site["PrometheusRule"]["spec"] == yaml.safe_load(RULES.read_text(encoding="utf-8"))
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(site["PrometheusRule"]["spec"]), encoding="utf-8")
    promtool("check", "rules", rules)
    label = site["ServiceMonitor"]["spec"]["jobLabel"]
    assert f'job="{site["Service"]["metadata"]["labels"][label]}"' in RULES.read_text(encoding="utf-8")


def test_the_autoscaler_asks_for_what_the_adapter_computes_from_a_series_of_the_server(site, client, tmp_path):
    (metric,) = site["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (rule,) = yaml.safe_load(ADAPTER.read_text(encoding="utf-8"))["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    name = rule["seriesQuery"].partition("{")[0]
    assert client.post("/recognize", content=encode(), headers=JPEG).status_code == httpx.codes.OK
    assert f'{name}{{backend="tiny",stage="total"}}' in client.get("/metrics").text

    query = rule["metricsQuery"].replace("<<.Series>>", name).replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="n",pod=~"a|b"')
    series = [("a", "one", "total", 90), ("a", "two", "total", 30), ("a", "one", "queue", 60), ("b", "one", "total", 0)]
    given = [
        {
            "series": f'{name}{{namespace="n",pod="{pod}",backend="{backend}",stage="{stage}"}}',
            "values": f"0+{seconds}x10",
        }
        for pod, backend, stage, seconds in series
    ]
    found = [{"labels": '{pod="a"}', "value": 2}, {"labels": '{pod="b"}', "value": 0}]
    asked = {"expr": query, "eval_time": "5m", "exp_samples": found}
    tests = tmp_path / "tests.yml"
    test = {"interval": "1m", "input_series": given, "promql_expr_test": [asked]}
    tests.write_text(yaml.safe_dump({"tests": [test]}), encoding="utf-8")
    assert "SUCCESS" in promtool("test", "rules", tests)


def test_the_image_is_of_the_version_of_the_project(site):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pods = (site["Deployment"]["spec"]["template"]["spec"], predicting_pod())
    assert {container["image"] for pod in pods for container in pod["containers"]} == {f"lpr:{project['version']}"}


def leaves(values: Manifest, path: str = "") -> dict[str, object]:
    """The values of a chart by their full names."""
    found = [
        leaves(value, f"{path}{name}.") if isinstance(value, dict) and value else {f"{path}{name}": value}
        for name, value in values.items()
    ]
    return dict(chain.from_iterable(each.items() for each in found))


def test_every_value_of_the_chart_is_documented_with_its_default():
    page = Path(REPOSITORY, "docs", "deployment.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", page, re.MULTILINE))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert {name: yaml.safe_load(value) for name, value in told.items()} == leaves(values)
