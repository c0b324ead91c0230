"""Installs, upgrades or removes a chart on a cluster, as the `helm` command does.

    $(scripts/charts.sh python) tests/python/helm.py install stillhouse charts/stillhouse --namespace distil \
        --kubeconfig FILE [--values FILE]... [--wait SECONDS]
    ... upgrade RELEASE CHART ... | uninstall RELEASE ... | render RELEASE CHART ...

Exit codes: 0 done; 1 the chart, its values or the cluster refused; 2 the command line;
3 a release of that name is there already (install), or is not there (upgrade, uninstall).
`render` prints what would be applied, with what `lookup` finds on the cluster.
"""

import argparse
import json
import pathlib
import sys

import helm_python as helm
import yaml

DONE, REFUSED, USAGE, STATE = 0, 1, 2, 3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["install", "upgrade", "uninstall", "render"])
    parser.add_argument("release")
    parser.add_argument("chart", type=pathlib.Path, nargs="?")
    parser.add_argument("--namespace", default="default", help="of the release; install makes it")
    parser.add_argument("--values", type=pathlib.Path, action="append", default=[], help="later files count more")
    parser.add_argument("--kubeconfig", type=pathlib.Path, required=True)
    parser.add_argument("--wait", type=int, metavar="SECONDS", help="for what was applied to be ready")
    given = parser.parse_args()
    if given.action != "uninstall" and not (given.chart and (given.chart / "Chart.yaml").is_file()):
        parser.error(f"{given.action} needs a chart's folder, found {given.chart}")
    return given


def merged(files):
    """Values of all files; of two for one key the later counts, key by key."""
    values = {}
    for file in files:
        values = merge(values, yaml.safe_load(file.read_text()) or {})
    return values


def merge(old, new):
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: merge(old[key], value) if key in old else value for key, value in new.items()}


def is_there(config, release):
    return any(one["name"] == release for one in config.list(all_states=True))


def perform(given, config):
    there = is_there(config, given.release)
    waiting = {"wait": "watcher", "timeout": given.wait} if given.wait else {"wait": "hookOnly"}
    if given.action == "uninstall":
        if not there:
            return say(STATE, f"no release {given.release} in {given.namespace}")
        config.uninstall(given.release, **waiting)
        return say(DONE, f"{given.release} is uninstalled")
    values = merged(given.values)
    if given.action == "render":
        with helm.Chart.load(given.chart) as chart:
            for path, text in sorted(
                config.render(chart, values, name=given.release, namespace=given.namespace).items()
            ):
                if path.endswith(".yaml") and text.strip():
                    print(f"---\n# {path}\n{text.strip()}")
        return DONE
    if there == (given.action == "install"):
        return say(
            STATE, f"release {given.release} is {'there already' if there else 'not there'} in {given.namespace}"
        )
    if given.action == "install":
        release = config.install(
            given.chart, given.release, values, namespace=given.namespace, create_namespace=True, **waiting
        )
    else:
        release = config.upgrade(
            given.chart, given.release, values, namespace=given.namespace, reset_values=True, **waiting
        )
    summary = {
        key: release.get(key) for key in ("name", "namespace", "version", "revision", "status") if key in release
    }
    return say(DONE, json.dumps(summary))


def say(code, sentence):
    print(sentence, file=sys.stderr if code else sys.stdout)
    return code


def main():
    given = arguments()
    try:
        with helm.Config(kubeconfig_path=given.kubeconfig, namespace=given.namespace) as config:
            return perform(given, config)
    except (helm.HelmError, OSError, yaml.YAMLError) as error:
        return say(REFUSED, f"error: {error}")


if __name__ == "__main__":
    sys.exit(main())
