"""What a set of NetworkPolicies lets through, and whether that is what the chart's should."""

import ipaddress

HERE, ELSEWHERE = "stillhouse", "elsewhere"
JOB = "app.kubernetes.io/name"
ROLE = "app.kubernetes.io/component"


def pod(role, namespace):
    """A pod of a job."""
    return {"namespace": namespace, "labels": {JOB: "stillhouse", ROLE: role}}


# Of each values file: the teacher that it lets be asked, at which port, and whether anything else may be.
IN_CLUSTER = {"namespace": HERE, "labels": {"app": "teacher"}}
TEACHERS = {
    "defaults": ({"ip": "192.0.2.1"}, 8080, False),
    "cluster": ({"ip": "203.0.113.9"}, 443, True),
    "everything": (IN_CLUSTER, 8080, True),
    "kind": (IN_CLUSTER, 8080, True),
}


def network_faults(variant, policies):
    """Connections that are open and should not be, or the other way."""
    jobs = "vision" if variant == "cluster" else HERE
    if variant == "least":
        if policies:
            yield "policies although they are switched off"
        return
    coordinator, worker, gateway = (pod(role, jobs) for role in ("coordinator", "worker", "gateway"))
    operator = {"namespace": HERE, "labels": {JOB: "stillhouse-operator", "app.kubernetes.io/instance": "stillhouse"}}
    redis = {"namespace": HERE, "labels": {JOB: "stillhouse-redis", "app.kubernetes.io/instance": "stillhouse"}}
    stranger = {"namespace": ELSEWHERE, "labels": {"app": "stranger"}}
    prometheus = {"namespace": "monitoring", "labels": {}}
    internet = {"ip": "192.0.2.1"}
    teacher, teacher_port, is_narrowed = TEACHERS[variant]
    expected = [
        (worker, coordinator, 7700, True),
        (gateway, coordinator, 7700, True),
        (worker, worker, 40001, True),
        (operator, coordinator, 9464, True),
        (prometheus, coordinator, 9464, True),
        (prometheus, worker, 9464, True),
        (prometheus, gateway, 9464, True),
        (prometheus, operator, 9464, True),
        (prometheus, coordinator, 7700, False),
        (stranger, coordinator, 7700, False),
        (stranger, worker, 40001, False),
        (stranger, gateway, 7700, False),
        (stranger, operator, 8080, False),
        (operator, coordinator, 7700, False),
        (worker, gateway, 7700, False),
        (gateway, worker, 40001, False),
        (coordinator, worker, 40001, False),
        (worker, coordinator, 22, False),
        (pod("worker", ELSEWHERE), coordinator, 7700, False),
        (pod("worker", ELSEWHERE), worker, 40001, False),
        (worker, internet, 443, False),
        (worker, teacher, teacher_port, False),
        (gateway, teacher, teacher_port, True),
        (coordinator, teacher, teacher_port, True),
        (gateway, internet, 443, not is_narrowed),
        (coordinator, internet, 443, not is_narrowed),
        (operator, internet, 6443, True),
    ]
    if variant == "cluster":
        expected += [
            (coordinator, {"ip": "198.51.100.9"}, 9000, True),
            (gateway, {"ip": "198.51.100.9"}, 9000, False),
            (gateway, {"ip": "198.51.100.4"}, 6379, True),
            (gateway, {"ip": "203.0.113.7"}, 443, False),
            (stranger, coordinator, 9464, False),
        ]
    if variant in ("everything", "kind"):
        expected += [
            (gateway, redis, 6379, True),
            (coordinator, redis, 6379, True),
            (worker, redis, 6379, False),
            (stranger, redis, 6379, False),
            (redis, internet, 443, False),
        ]
    for source, target, port, is_open in expected:
        if allows(policies, source, target, port) != is_open:
            yield f"{name(source)} {'cannot' if is_open else 'can'} reach {name(target)} at port {port}"
    if not allows(policies, worker, {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}, 53, "UDP"):
        yield "a worker cannot ask for names"


def name(end):
    return (
        end.get("ip") or f"{end['labels'].get(ROLE) or end['labels'].get(JOB) or end['labels']} in {end['namespace']}"
    )


def allows(policies, source, target, port, protocol="TCP"):
    """Whether a connection passes: the policies of each end that has any must let it."""
    return passes(policies, "Egress", source, target, port, protocol) and passes(
        policies, "Ingress", target, source, port, protocol
    )


def passes(policies, direction, own, other, port, protocol):
    mine = [policy for policy in policies if selects(policy, own) and direction in policy["spec"]["policyTypes"]]
    rules = [rule for policy in mine for rule in policy["spec"].get(direction.lower(), [])]
    peers = "to" if direction == "Egress" else "from"
    return not mine or any(
        is_port(rule.get("ports"), port, protocol)
        and (not rule.get(peers) or any(is_peer(peer, other, own["namespace"]) for peer in rule[peers]))
        for rule in rules
    )


def selects(policy, end):
    return end.get("namespace") == policy["metadata"]["namespace"] and matches(
        policy["spec"]["podSelector"], end["labels"]
    )


def is_port(ports, port, protocol):
    return not ports or any(one["port"] == port and one["protocol"] == protocol for one in ports)


def is_peer(peer, end, namespace):
    if "ipBlock" in peer:
        if "ip" not in end:
            return False
        address = ipaddress.ip_address(end["ip"])
        within = [
            address in ipaddress.ip_network(net)
            for net in [peer["ipBlock"]["cidr"], *peer["ipBlock"].get("except", [])]
        ]
        return within[0] and not any(within[1:])
    if "ip" in end:
        return False
    spaces = peer.get("namespaceSelector")
    is_there = (
        end["namespace"] == namespace
        if spaces is None
        else matches(spaces, {"kubernetes.io/metadata.name": end["namespace"]})
    )
    return is_there and matches(peer.get("podSelector", {}), end["labels"])


def matches(selector, labels):
    return selector.get("matchLabels", {}).items() <= labels.items()
