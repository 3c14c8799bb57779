"""Every metric is on its page; alerts and dashboards name no other."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import chain
from pathlib import Path

import orjson
import pytest
import yaml
from markdown.extensions.toc import slugify
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from services.executor import metrics as of_executor
from services.gateway import metrics as of_gateway
from services.ledger import metrics as of_ledger
from services.ledger.dashboards import DASHBOARDS, UNCERTAIN_ATTEMPTS
from services.policy import metrics as of_policy
from shared.events.decisions import BlockReason

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy" / "prometheus"
PARTS = ("bucket", "sum", "count")
MODULES = (of_gateway, of_policy, of_executor, of_ledger)


def exported() -> dict[str, tuple[str, str, str]]:
    """Type, labels and meaning of each metric, by the name that Prometheus sees."""
    found = {}
    for metric in chain.from_iterable(vars(module).values() for module in MODULES):
        if isinstance(metric, MetricWrapperBase):
            name = metric._name + ("_total" if metric._type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            found[name] = (str(metric._type), labels, metric._documentation)
    return found


def test_the_metrics_page_lists_each_metric_with_type_labels_unit_and_meaning() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(skeldir_\w+)` \| (\w+) \| (.*?) \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    assert {name: (kind, labels.strip(), meaning) for name, kind, labels, _, meaning in rows} == exported()


def test_the_modules_named_metrics_define_every_metric() -> None:
    others = [
        str(file.relative_to(ROOT))
        for folder in ("services", "shared", "skeldir")
        for file in (ROOT / folder).rglob("*.py")
        if file.name != "metrics.py"
        and re.search(r"prometheus_client import .*(Counter|Gauge|Histogram)", file.read_text())
    ]
    assert not others
    ours = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("skeldir_")}
    assert ours == {name.removesuffix("_total") for name in exported()}


def test_no_metric_has_a_label_by_tenant_or_user() -> None:
    assert not [name for name, (_, labels, _) in exported().items() if re.search("tenant|user|task|request", labels)]


def panel_queries(kind: str) -> list[str]:
    """What the dashboard's panels ask, of Prometheus (`expr`) or of the books (`rawSql`)."""
    panels = orjson.loads((ROOT / "deploy" / "grafana" / "skeldir.json").read_bytes())["panels"]
    return [target[kind] for panel in panels for target in panel["targets"] if kind in target]


def queries() -> list[str]:
    """Of all panels and all rules."""
    rules = yaml.safe_load((ALERTS / "alerts.yaml").read_text())["groups"][0]["rules"]
    return [*panel_queries("expr"), *panel_queries("rawSql"), *(rule["expr"] for rule in rules)]


def test_alerts_and_dashboards_name_only_what_exists() -> None:
    names = set(exported())
    names |= {f"{name}_{part}" for name, (kind, _, _) in exported().items() for part in PARTS if kind == "histogram"}
    said = "\n".join(queries())
    used = set(re.findall(r"\bskeldir_\w+", said))
    assert used
    assert not used - names
    assert set(re.findall(r"FROM (\w+)", said)) == {
        f"dashboard_{one.name}" for one in (*DASHBOARDS, UNCERTAIN_ATTEMPTS)
    }


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    rules = yaml.safe_load((ALERTS / "alerts.yaml").read_text())["groups"][0]["rules"]
    cases = yaml.safe_load((ALERTS / "alerts_test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in rules}
    assert all({"summary", "action", "runbook"} == rule["annotations"].keys() for rule in rules)


def sections(page: Path) -> dict[str, str]:
    """Text by the anchor that its heading has on the site."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)
    return {slugify(title, "-"): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_every_alert_names_the_section_of_a_runbook_that_names_it() -> None:
    for rule in yaml.safe_load((ALERTS / "alerts.yaml").read_text())["groups"][0]["rules"]:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page.startswith("docs/runbooks/")
        assert f"`{rule['alert']}`" in sections(ROOT / page)[anchor], rule["alert"]


def test_the_runbook_names_every_code_that_the_door_refuses_with() -> None:
    code = "".join(
        path.read_text() for folder in ("services/gateway", "shared") for path in (ROOT / folder).rglob("*.py")
    )
    codes = {*re.findall(r'\b503, "(\w+)"', code), *re.findall(r'^CHANGE = "(\w+)"', code, re.MULTILINE)}
    text = sections(ROOT / "docs" / "runbooks" / "incidents.md")["the-door-refuses"]
    assert len(codes) > 5
    assert not [one for one in codes if f"`{one}`" not in text]


def test_the_runbook_names_every_reason_to_block() -> None:
    text = sections(ROOT / "docs" / "runbooks" / "incidents.md")["many-tasks-are-blocked"]
    assert not [reason for reason in BlockReason if f"`{reason}`" not in text]


def test_alerts_and_panels_select_by_labels_that_the_metric_has() -> None:
    labels = {
        name: set(re.findall(r"`(\w+)`", of)) | {"job", "instance", "le"} for name, (_, of, _) in exported().items()
    }
    used = [
        (name, label)
        for query in queries()
        for name, selector in re.findall(r"\b(skeldir_\w+)\{([^}]*)\}", query)
        for label in re.findall(r"(\w+)\s*[=!]", selector)
    ]
    assert used and not [(name, label) for name, label in used if label not in labels[re.sub("_bucket$", "", name)]]
    # A sum or a quantile by a label that nobody has is one line, and says nothing.
    everything = set().union(*labels.values())
    assert not [
        one
        for query in queries()
        for by in re.findall(r"by \(([^)]*)\)", query)
        for one in by.split(", ")
        if one not in everything
    ]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: it is in Debian's package `prometheus`")
@pytest.mark.parametrize("command", ["test rules alerts_test.yaml", "check config prometheus.yaml"])
def test_promtool_accepts_rules_and_configuration(command: str) -> None:
    done = subprocess.run(
        ["promtool", *command.split()], cwd=ALERTS, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: it is in Debian's package `prometheus`")
def test_prometheus_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(panel_queries("expr"))]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "panels.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
