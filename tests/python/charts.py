"""Checks the Helm charts and what is made of them, without a cluster; `sync` writes what is only a copy.

Run by scripts/charts.sh, which installs what this needs.
"""

import functools
import json
import pathlib
import shutil
import subprocess
import sys

import helm_python as helm
import kubernetes_validate
import yaml
from charts_policies import network_faults

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/stillhouse"
CRDS = ROOT / "charts/stillhouse-crds"
MANIFESTS = ROOT / "deploy/manifests"
MINORS = ["1.34", "1.35", "1.36"]
# Kinds that the validator has no schema of: other projects' definitions.
FOREIGN = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
# Order in plain manifests: what pods need comes before them.
ORDER = ["serviceaccount", "rbac", "user-roles", "networkpolicies", "redis", "monitoring", "deployment"]

# What the operator may do, in full: group, resource, verbs. Whoever adds a right adds it here too.
RIGHTS = {
    ("stillhouse.dev", "distilljobs"): {"list", "watch", "delete"},
    ("stillhouse.dev", "distilljobs/status"): {"patch"},
    ("batch", "jobs"): {"list", "watch", "create", "patch", "delete"},
    ("apps", "deployments"): {"list", "watch", "create", "patch"},
    ("", "services"): {"create", "patch"},
    ("", "configmaps"): {"create", "patch"},
    ("", "persistentvolumeclaims"): {"create", "patch"},
    ("", "pods"): {"list", "watch"},
    ("", "secrets"): {"create"},
    ("events.k8s.io", "events"): {"create", "patch"},
}
LEASE = {("coordination.k8s.io", "leases"): {"get", "create", "patch"}}

# Values that the schema must refuse, each for one reason.
BAD = {
    "an unknown key": {"replcas": 2},
    "an unknown key inside": {"redis": {"enable": True}},
    "a scope that there is not": {"scope": "galaxy"},
    "a number as text": {"replicas": "2"},
    "replicas below zero": {"replicas": -1},
    "a digest that is none": {"image": {"digest": "sha256:12"}},
    "a tag with a colon": {"image": {"tag": "a:b"}},
    "a pull policy that there is not": {"image": {"pullPolicy": "Sometimes"}},
    "an address without a mask": {"networkPolicy": {"teacher": {"to": [{"ipBlock": {"cidr": "10.0.0.1"}}]}}},
    "a peer that is both": {
        "networkPolicy": {"redis": {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}}
    },
    "an empty peer, which is everybody": {"networkPolicy": {"teacher": {"to": [{}]}}},
    "a port that there is not": {"networkPolicy": {"teacher": {"ports": [70000]}}},
    "an account of somebody else's without a name": {"serviceAccount": {"create": False}},
    "a label that selects the pods of jobs": {"podLabels": {"app.kubernetes.io/name": "stillhouse"}},
    "a common label that the chart sets": {"commonLabels": {"app.kubernetes.io/instance": "x"}},
    "a variable that the chart sets": {"extraEnv": [{"name": "STILLHOUSE_NAMESPACE", "value": "x"}]},
    "memory in a unit that Redis does not know": {"redis": {"maxMemory": "200Mi"}},
    "a label that is no text": {"monitoring": {"dashboards": {"labels": {"grafana_dashboard": 1}}}},
    "a list where a map is": {"nodeSelector": ["a"]},
    "a spread with a selector of its own": {
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
        ]
    },
}


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that comes twice: YAML parsers take the last, API servers may not."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"{sorted(twice)} twice in one map, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def objects(text):
    """The objects of a YAML text."""
    return [item for item in yaml.load_all(text, UniqueKeys) if item]


def variants():
    """The chart's values files by name: the defaults, those of `ci/`, and that of deploy/kind."""
    files = [*sorted((CHART / "ci").glob("*.yaml")), ROOT / "deploy/kind/values.yaml"]
    names = {"values": "kind"}
    return {"defaults": {}} | {names.get(file.stem, file.stem): yaml.safe_load(file.read_text()) for file in files}


def render(chart, values, namespace="stillhouse"):
    """The texts that a chart becomes, by template."""
    with helm.Chart.load(chart) as loaded:
        rendered = loaded.render(values, name="stillhouse", namespace=namespace)
    return {path.removeprefix(f"{chart.name}/templates/"): text for path, text in rendered.items()}


def rendered_objects(chart, values):
    """The objects that a chart becomes."""
    texts = render(chart, values)
    if not texts.pop("NOTES.txt", "").strip():
        raise ValueError("NOTES.txt is empty")
    return [item for text in texts.values() for item in objects(text)]


# --- copies ----------------------------------------------------------------------------------------------------------


def copies():
    """What must be equal: the copy, and what it is of."""
    pairs = {CHART / "files/alerts.yaml": ROOT / "deploy/prometheus/alerts.yaml"}
    for dashboard in sorted((ROOT / "deploy/grafana").glob("*.json")):
        pairs[CHART / "files/dashboards" / dashboard.name] = dashboard
    pairs[CRDS / "distilljobs.json"] = ROOT / "deploy/crd.json"
    return {copy: source for copy, source in pairs.items() if source.exists()}


def stale_dashboards():
    """Dashboards in the chart that are no copies of anything."""
    known = set(copies())
    return [file for file in (CHART / "files/dashboards").glob("*") if file not in known]


def manifests():
    """The plain manifests, by file name."""
    crd = render(CRDS, {"keep": False})["distilljobs.yaml"]
    made = {
        "crd.yaml": header("The definition of DistillJob. Server-side: kubectl apply --server-side -f crd.yaml")
        + plain(crd)
    }
    for scope, about in {
        "namespace": "The operator for the jobs of namespace stillhouse alone. crd.yaml comes first.",
        "cluster": "The operator for the jobs of every namespace. crd.yaml comes first.",
    }.items():
        values = {"scope": scope}
        texts = render(CHART, values)
        parts = [namespace(), *(plain(texts[f"{name}.yaml"]) for name in ORDER if texts[f"{name}.yaml"].strip())]
        made[f"{scope}.yaml"] = header(about) + "---\n".join(parts)
    return made


def header(about):
    """What a written file begins with."""
    return f"# {about}\n# Written by scripts/charts.sh sync from charts/; change those.\n"


def namespace():
    """Where the plain manifests put the operator. Pods of jobs keep to the strictest of the standard rules."""
    return (
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: stillhouse\n  labels:\n"
        "    pod-security.kubernetes.io/enforce: restricted\n"
    )


def plain(text):
    """A rendered text without what only Helm has a use for."""
    helms = ("helm.sh/", "app.kubernetes.io/managed-by: Helm")
    lines = [line for line in text.strip().splitlines() if not line.strip().startswith(helms)]
    return "\n".join(lines).removeprefix("---\n") + "\n"


def sync():
    """Writes every copy and the plain manifests."""
    for copy, source in copies().items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    for file in stale_dashboards():
        file.unlink()
    MANIFESTS.mkdir(parents=True, exist_ok=True)
    for name, text in manifests().items():
        (MANIFESTS / name).write_text(text)


def copies_are_in_step():
    for copy, source in copies().items():
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            yield f"{rel(copy)} differs from {rel(source)}: scripts/charts.sh sync"
    for file in stale_dashboards():
        yield f"{rel(file)} is no copy of anything: scripts/charts.sh sync"
    made = manifests()
    there = {file.name for file in MANIFESTS.glob("*.yaml")}
    for name in sorted(there | set(made)):
        file = MANIFESTS / name
        if name not in made or not file.exists() or file.read_text() != made[name]:
            yield f"{rel(file)} is not what the chart becomes: scripts/charts.sh sync"


def rel(path):
    return path.relative_to(ROOT)


# --- the charts ------------------------------------------------------------------------------------------------------


def charts_pass_lint():
    for chart, values in [(CRDS, {}), *((CHART, values) for values in variants().values())]:
        # `icon is recommended` is the one message that is taken.
        for message in helm.lint(chart, values, strict=True, namespace="stillhouse")["messages"]:
            if "icon is recommended" not in message["error"]:
                yield f"{rel(chart)}: {message['path']}: {message['error']}"


@functools.cache
def schema(filename, version):
    return read_schema(filename, version)


# Read once and not for each object: the definitions of one minor are two megabytes.
read_schema = kubernetes_validate.utils.schema_contents
kubernetes_validate.utils.schema_contents = schema


def objects_are_valid():
    checked = set()
    everything = [(name, item) for name, values in variants().items() for item in rendered_objects(CHART, values)]
    everything += [("crds", item) for item in rendered_objects(CRDS, {})]
    for file in [
        *sorted(MANIFESTS.glob("*.yaml")),
        *(ROOT / "deploy/kind" / name for name in ("data.yaml", "teacher.yaml")),
    ]:
        everything += [(str(rel(file)), item) for item in objects(file.read_text())]
    for variant, item in everything:
        key = json.dumps(item, sort_keys=True)
        if item["kind"] in FOREIGN or key in checked:
            continue
        checked.add(key)
        for minor in MINORS:
            try:
                kubernetes_validate.validate(item, minor, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(str(part) for part in error.path)
                yield f"{variant}: {title(item)} on {minor}: {where}: {error.message}"
    if len(checked) < 30:
        yield f"only {len(checked)} objects were validated: expected some thirty"


def title(item):
    return f"{item['kind']}/{item['metadata']['name']}"


def definition_is_exact():
    source = json.loads((CRDS / "distilljobs.json").read_text())
    for keep in (True, False):
        (item,) = rendered_objects(CRDS, {"keep": keep, "labels": {"a": "b"}})
        metadata = item.pop("metadata")
        if item | {"metadata": {"name": metadata["name"]}} != source:
            yield "the definition that is installed differs from distilljobs.json"
        policy = metadata.get("annotations", {}).get("helm.sh/resource-policy")
        if (policy == "keep") != keep or metadata["labels"]["a"] != "b":
            yield f"keep: {keep} gives the resource policy {policy}"


def bad_values_are_refused():
    with helm.Chart.load(CHART) as chart:
        for name, values in variants().items():
            try:
                chart.validate_schema(values)
            except helm.HelmError as error:
                yield f"the schema refuses {name}: {error}"
        for why, values in BAD.items():
            try:
                chart.validate_schema(values)
            except helm.HelmValuesError:
                continue
            yield f"the schema takes {why}: {json.dumps(values)}"


def values_are_documented():
    """The schema, values.yaml and the README know the same values."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    known = json.loads((CHART / "values.schema.json").read_text())
    readme = (CHART / "README.md").read_text()
    yield from differing(known, known, defaults, "")
    for key in defaults:
        if f"`{key}" not in readme:
            yield f"{key} is not in the chart's README.md"


def differing(root, schema, values, path):
    """Keys that only one of the schema and values.yaml has; free maps end the walk."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    properties = schema.get("properties")
    # What only tells lists of quantities or expressions apart is documented by Kubernetes.
    if properties is None or path.endswith(("resources.", "affinity.")):
        return
    for key in sorted((set(properties) | set(values)) - {"global"}):
        if key not in properties or key not in values:
            yield f"{path}{key} is not both in values.yaml and its schema"
        elif isinstance(values[key], dict):
            yield from differing(root, properties[key], values[key], f"{path}{key}.")


# --- what is in the objects ------------------------------------------------------------------------------------------


def roles_are_exact():
    for name, values in variants().items():
        is_cluster = values.get("scope") == "cluster"
        items = rendered_objects(CHART, values)
        roles = {title(item): rights(item) for item in items if item["kind"] in ("Role", "ClusterRole")}
        for role, granted in roles.items():
            readable = granted.get(("", "secrets"), set()) - {"create"}
            if readable or any("*" in part for key, verbs in granted.items() for part in (*key, *verbs)):
                yield f"{name}: {role} can read Secrets, or names everything"
        for item in items:
            if item["kind"].startswith("Cluster") and not is_cluster:
                yield f"{name}: {title(item)} under scope: namespace"
        if values.get("rbac", {}).get("create", True):
            kind = "ClusterRole/stillhouse-" if is_cluster else "Role/"
            wanted = {f"{kind}stillhouse-operator": RIGHTS, "Role/stillhouse-operator-lease": LEASE}
            for role, expected in wanted.items():
                if roles.get(role) != expected:
                    yield f"{name}: {role} has {roles.get(role)}, expected {expected}"


def rights(role):
    """What a role grants: verbs by group and resource."""
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def pods_have_no_rights():
    for name, values in variants().items():
        for item in rendered_objects(CHART, values):
            if item["kind"] not in ("Deployment", "StatefulSet"):
                continue
            pod = item["spec"]["template"]["spec"]
            security, (container,) = pod["securityContext"], pod["containers"]
            expected = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            is_tight = (
                security["runAsNonRoot"]
                and security["runAsUser"] == 65532
                and security["seccompProfile"] == {"type": "RuntimeDefault"}
                and container["securityContext"] == expected
                and container["resources"]["limits"]["memory"]
            )
            if not is_tight:
                yield f"{name}: {title(item)} is not confined"
            if item["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == "stillhouse":
                yield f"{name}: {title(item)} has the label of the pods of jobs"


def selectors_select():
    for name, values in variants().items():
        items = rendered_objects(CHART, values)
        pods = [item["spec"]["template"]["metadata"]["labels"] for item in items if "template" in item.get("spec", {})]
        services = [item["metadata"]["labels"] for item in items if item["kind"] == "Service"]
        jobs = [
            {"app.kubernetes.io/name": "stillhouse", "app.kubernetes.io/component": role}
            for role in ("coordinator", "worker", "gateway")
        ]
        for item in items:
            spec = item.get("spec", {})
            selector = spec.get("podSelector") or spec.get("selector") or {}
            labels = selector.get("matchLabels", selector)
            targets = services if item["kind"] == "ServiceMonitor" else pods + jobs
            if labels and not any(labels.items() <= target.items() for target in targets):
                yield f"{name}: {title(item)} selects nothing: {labels}"


def networks_are_closed():
    for name, values in variants().items():
        policies = [item for item in rendered_objects(CHART, values) if item["kind"] == "NetworkPolicy"]
        for fault in network_faults(name, policies):
            yield f"{name}: {fault}"


# --- beside the charts -----------------------------------------------------------------------------------------------


def dockerfiles_pass_lint():
    files = sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))
    linter = pathlib.Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "--config", ROOT / "deploy/docker/hadolint.yaml", *files], capture_output=True, text=True
    )
    if done.returncode != 0 or not files:
        yield done.stdout + done.stderr


def compose_names_files_that_are_there():
    file = ROOT / "deploy/compose/compose.yaml"
    compose = yaml.load(file.read_text(), UniqueKeys)
    for name, service in compose["services"].items():
        paths = [volume.split(":")[0] for volume in service.get("volumes", [])]
        paths += [service["build"]["context"]] if "build" in service else []
        for path in paths:
            if path.startswith(".") and not (file.parent / path).exists():
                yield f"{rel(file)}: {name} mounts {path}, which is not there"
            if not path.startswith((".", "/")) and path not in compose["volumes"]:
                yield f"{rel(file)}: {name} has the volume {path}, which is not declared"
        for other in service.get("depends_on", []):
            if other not in compose["services"]:
                yield f"{rel(file)}: {name} waits for {other}, which is not there"


CHECKS = [
    charts_pass_lint,
    bad_values_are_refused,
    values_are_documented,
    objects_are_valid,
    definition_is_exact,
    roles_are_exact,
    pods_have_no_rights,
    selectors_select,
    networks_are_closed,
    copies_are_in_step,
    dockerfiles_pass_lint,
    compose_names_files_that_are_there,
]


def check(names):
    """Runs the checks of these names, all without any; answers with how many found something."""
    failed = 0
    for one in CHECKS:
        if names and one.__name__ not in names:
            continue
        try:
            faults = list(one())
        except Exception as error:  # A chart that cannot be rendered at all fails every check that renders it.
            faults = [f"{type(error).__name__}: {error}"]
        print(f"{'FAILED' if faults else 'ok    '} {one.__name__.replace('_', ' ')}")
        for fault in faults:
            print(f"       {fault}")
        failed += bool(faults)
    return failed


if __name__ == "__main__":
    if sys.argv[1:] == ["sync"]:
        sync()
    elif check(sys.argv[2:]):
        sys.exit(1)
