"""Faults that tests/python/charts.py must find: each is planted into a copy of the tree. A check that cannot fail is a defect."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEMPLATES = "charts/stillhouse/templates"

# The check that must fail, the file, what stands there and what is planted.
PLANTED = [
    ("charts_pass_lint", f"{TEMPLATES}/rbac.yaml", "{{- end }}", ""),
    (
        "bad_values_are_refused",
        "charts/stillhouse/values.schema.json",
        '"additionalProperties": false,\n  "properties": {\n    "global"',
        '"properties": {\n    "global"',
    ),
    ("values_are_documented", "charts/stillhouse/values.yaml", "log: info\n", "log: info\nnew: 1\n"),
    ("values_are_documented", "charts/stillhouse/README.md", "`replicas`", "replicas"),
    ("objects_are_valid", f"{TEMPLATES}/deployment.yaml", "terminationMessagePolicy:", "terminationMessagesPolicy:"),
    ("objects_are_valid", f"{TEMPLATES}/deployment.yaml", "replicas: {{ .Values.replicas }}", "replicas: two"),
    (
        "objects_are_valid",
        f"{TEMPLATES}/_helpers.tpl",
        "app.kubernetes.io/part-of: stillhouse\n",
        "app.kubernetes.io/part-of: stillhouse\napp.kubernetes.io/component: x\n",
    ),
    (
        "definition_is_exact",
        "charts/stillhouse-crds/templates/distilljobs.yaml",
        "{{- toYaml $definition }}",
        '{{- $_ := set $definition.spec "scope" "Cluster" }}{{- toYaml $definition }}',
    ),
    (
        "roles_are_exact",
        f"{TEMPLATES}/rbac.yaml",
        "resources: [secrets]\n    verbs: [create]",
        "resources: [secrets]\n    verbs: [create, get]",
    ),
    ("roles_are_exact", f"{TEMPLATES}/rbac.yaml", "resources: [pods]", "resources: ['*']"),
    (
        "roles_are_exact",
        f"{TEMPLATES}/user-roles.yaml",
        "resources: [distilljobs]\n",
        "resources: [distilljobs]\n    verbs: [get]\n  - apiGroups: ['']\n    resources: [secrets]\n",
    ),
    (
        "pods_have_no_rights",
        f"{TEMPLATES}/_helpers.tpl",
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
    ),
    (
        "pods_have_no_rights",
        f"{TEMPLATES}/_helpers.tpl",
        "app.kubernetes.io/name: stillhouse-operator\napp.kubernetes.io/component",
        "app.kubernetes.io/name: stillhouse\napp.kubernetes.io/component",
    ),
    (
        "selectors_select",
        f"{TEMPLATES}/monitoring.yaml",
        "app.kubernetes.io/name: stillhouse\n  # Become",
        "app.kubernetes.io/name: job\n  # Become",
    ),
    (
        "selectors_select",
        f"{TEMPLATES}/redis.yaml",
        'selector: {{- include "stillhouse.redisSelector" . | nindent 4 }}',
        "selector: { app: redis }",
    ),
    (
        "networks_are_closed",
        f"{TEMPLATES}/networkpolicies.yaml",
        "policyTypes: [Ingress, Egress]\n  ingress:\n    # The operator",
        "policyTypes: [Ingress]\n  ingress:\n    # The operator",
    ),
    (
        "networks_are_closed",
        f"{TEMPLATES}/networkpolicies.yaml",
        'role" "gateway" | nindent 12 }}\n      ports',
        'role" "gateway" | nindent 12 }}\n        - namespaceSelector: {}\n      ports',
    ),
    ("networks_are_closed", f"{TEMPLATES}/redis.yaml", 'list "coordinator" "gateway"', 'list "coordinator"'),
    ("networks_are_closed", f"{TEMPLATES}/redis.yaml", "policyTypes: [Ingress, Egress]", "policyTypes: [Egress]"),
    ("copies_are_in_step", "deploy/grafana/fleet.json", "Stillhouse: fleet", "Fleet"),
    ("copies_are_in_step", "deploy/manifests/cluster.yaml", "verbs: [list, watch]", "verbs: [get, list, watch]"),
    ("dockerfiles_pass_lint", "deploy/docker/worker.Dockerfile", "USER 65532:65532", "RUN cd /tmp"),
    ("compose_names_files_that_are_there", "deploy/compose/compose.yaml", "./job.yaml:", "./jobs.yaml:"),
]


def missed():
    """Faults that no check finds, as sentences."""
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        for part in ("charts", "deploy", "examples", "tests/python"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "teachers"))
        for check, path, stands, planted in PLANTED:
            file = tree / path
            text = file.read_text()
            if stands not in text:
                yield f"{path} has no {stands!r} any more: nothing was planted"
                continue
            file.write_text(text.replace(stands, planted, 1))
            line = [sys.executable, "-B", tree / "tests/python/charts.py", "check", check]
            if subprocess.run(line, capture_output=True, env=os.environ | {"PYTHONPATH": ""}).returncode != 1:
                yield f"{check} did not find {planted!r} in {path}"
            file.write_text(text)


if __name__ == "__main__":
    faults = list(missed())
    for fault in faults:
        print(f"MISSED {fault}")
    print(f"{len(PLANTED) - len(faults)} of {len(PLANTED)} planted faults were found")
    sys.exit(bool(faults))
