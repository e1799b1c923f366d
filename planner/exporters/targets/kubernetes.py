"""Kubernetes: one pod per host of the plan, on that host, with a service that gives them names.

A device plugin chooses which devices of a node a pod gets, so a pod asks for all of them: then
their numbers are those of the plan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from planner.errors import ExportError, Problem
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.hosts import RESOURCES, Host
from planner.exporters.ranks import launch_of
from planner.exporters.reference_runtime import (
    RUNTIME,
    RUNTIME_RULES,
    RuntimeRead,
    read_runtime,
    runtime_files,
    runtime_todo,
    seated,
)
from planner.exporters.rules import Named, Rule, broken_rules, not_equal, rule_texts, unreadable
from planner.exporters.scripts import PORT
from planner.exporters.view import View

CAPABILITY = replace(
    RUNTIME,
    target="kubernetes",
    title="Kubernetes, with the planner's PyTorch runtime",
    writes="a job per host on its node, a service, and the files of torch",
    checked_by_target="not run: kubectl apply --dry-run=server -k . checks it on your cluster",
    placement="any: nodes by name, all devices of a node are asked for",
)

JOBS = "jobs.yaml"
SERVICE = "service.yaml"
KUSTOMIZATION = "kustomization.yaml"
CLAIM = "planner-export"
IMAGE = "planner-runtime"
FOLDER = "/export"
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")


@dataclass(frozen=True, slots=True)
class Read:
    """The documents as they were read back, and the files of the runtime."""

    jobs: tuple[dict[str, Any], ...]
    service: dict[str, Any]
    scripts: tuple[str, ...]
    runtime: RuntimeRead

    @property
    def view(self) -> View:
        """The plan."""
        return self.runtime.view

    @property
    def pods(self) -> tuple[dict[str, Any], ...]:
        """The pod of every job."""
        return tuple(job["spec"]["template"]["spec"] for job in self.jobs)


def write(view: View) -> Written:
    """The files of the runtime, and the documents that start them."""
    hosts = {host.name: host for host in view.hosts}
    launch = launch_of(view, seated(view))
    order = [hosts[h.host.name] for h in launch.hosts]
    documents = [_job(view, host, order[0]) for host in order]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [SERVICE, JOBS],
        "images": [{"name": IMAGE, "newName": IMAGE, "newTag": view.plan.planner_version}],
    }
    files = (
        File(JOBS, f"# {view.header}\n" + yaml.safe_dump_all(documents, sort_keys=False)),
        File(SERVICE, _yaml(view, _service(view))),
        File(KUSTOMIZATION, _yaml(view, kustomization)),
        *runtime_files(view),
    )
    run = (f"kubectl apply -k .   # this folder must be on the volume claim {CLAIM}",)
    todo = (
        f"an image with the planner and torch: kustomize edit set image {IMAGE}=YOUR/IMAGE:TAG",
        f"a ReadWriteMany volume claim named {CLAIM} that holds this folder, mounted at {FOLDER}",
        "args of the containers, which are those of planner run: a trial run as they are",
        *runtime_todo(view),
    )
    return Written(files, run, todo, _idle(view))


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads the documents and the files of the runtime back."""
    try:
        jobs = tuple(yaml.safe_load_all(files[JOBS]))
        service = yaml.safe_load(files[SERVICE])
    except yaml.YAMLError as error:
        raise unreadable(JOBS, str(error).splitlines()[0]) from None
    scripts = tuple(p for p in files if p.startswith("nodes/"))
    runtime = read_runtime(view, files)
    read = Read(jobs, service, scripts, runtime)
    problems = broken_rules(OWN_RULES, read, JOBS) + broken_rules(RUNTIME_RULES, runtime, JOBS)
    return Checked(rule_texts(OWN_RULES) + rule_texts(RUNTIME_RULES), problems)


def dns_name(host: str) -> str:
    """A host's name as a DNS label; two hosts that become one are a broken rule."""
    return re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")[:63].rstrip("-")


def _yaml(view: View, value: dict[str, Any]) -> str:
    return f"# {view.header}\n" + yaml.safe_dump(value, sort_keys=False)


def _group(view: View) -> str:
    return f"plan-{view.short_id}"


def _service(view: View) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _group(view)},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"plan": view.short_id},
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }


def _job(view: View, host: Host, first: Host) -> dict[str, Any]:
    name = dns_name(host.name)
    labels = {"plan": view.short_id, "host": name}
    resource, count = _resource(host)
    container = {
        "name": "rank-host",
        "image": IMAGE,
        "command": ["bash", f"{FOLDER}/nodes/{host.name}.sh"],
        "args": ["--data", "synthetic", "--steps", "10"],
        "workingDir": FOLDER,
        "env": [{"name": "MASTER_ADDR", "value": f"{dns_name(first.name)}.{_group(view)}"}],
        "resources": {"limits": {resource: count}},
        "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
        "volumeMounts": [
            {"name": "export", "mountPath": FOLDER},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    pod = {
        "hostname": name,
        "subdomain": _group(view),
        "restartPolicy": "Never",
        "nodeSelector": {"kubernetes.io/hostname": host.name},
        "containers": [container],
        "volumes": [
            {"name": "export", "persistentVolumeClaim": {"claimName": CLAIM}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{_group(view)}-{name}", "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _resource(host: Host) -> tuple[str, int]:
    """All devices of a host, by the name of its vendor's device plugin."""
    vendors = list(dict.fromkeys(device.chip.vendor for device in host.devices))
    if len(vendors) > 1 or vendors[0] not in RESOURCES:
        message = f"no one device plugin is known for {', '.join(vendors)}"
        problem = Problem(f"host {host.name}", message, "export to torch")
        raise ExportError("", where="by kubernetes", problems=[problem])
    return RESOURCES[vendors[0]], len(host.devices)


def _idle(view: View) -> tuple[str, ...]:
    used = set(view.used)
    idle = [d.name for host in view.hosts for d in host.devices if d.name not in used]
    if not idle:
        return ()
    return (f"whole nodes are taken, also {len(idle)} devices that the plan does not use",)


def _nodes(r: Read) -> str:
    named = sorted(pod["nodeSelector"]["kubernetes.io/hostname"] for pod in r.pods)
    return not_equal("nodes", named, sorted(host.name for host in r.view.hosts))


def _names(r: Read) -> str:
    names = [job["metadata"]["name"] for job in r.jobs]
    labels = [*names, *(pod["hostname"] for pod in r.pods), r.service["metadata"]["name"]]
    bad = [name for name in labels if not _NAME.match(name)]
    if bad:
        return f"{bad[0]!r} is no DNS label of at most 63 letters"
    twice = [name for name in names if names.count(name) > 1]
    return f"two hosts become {twice[0]}" if twice else ""


def _devices(r: Read) -> str:
    hosts = {host.name: host for host in r.view.hosts}
    for pod in r.pods:
        name = pod["nodeSelector"]["kubernetes.io/hostname"]
        limits = pod["containers"][0]["resources"]["limits"]
        if name in hosts and limits != dict([_resource(hosts[name])]):
            return f"{name} asks for {limits}, it has {dict([_resource(hosts[name])])}"
    return ""


def _meeting(r: Read) -> str:
    group = r.service["metadata"]["name"]
    hosts = {f"{pod['hostname']}.{group}" for pod in r.pods if pod["subdomain"] == group}
    found = {pod["containers"][0]["env"][0]["value"] for pod in r.pods}
    if len(found) > 1 or not found <= hosts:
        return f"the pods meet at {', '.join(sorted(found))}, which is none of them"
    first = r.runtime.hosts[0][0]
    return not_equal("the meeting place", found.pop(), f"{dns_name(first)}.{group}")


def _scripts(r: Read) -> str:
    wanted = [pod["containers"][0]["command"][-1].removeprefix(f"{FOLDER}/") for pod in r.pods]
    missing = [path for path in wanted if path not in r.scripts]
    return f"{missing[0]} is not part of the export" if missing else ""


OWN_RULES: tuple[Rule[Read], ...] = (
    Rule("nodes", "one pod on each of the plan's hosts", _nodes),
    Rule("names", "names are DNS labels, and no two are equal", _names),
    Rule("devices", "every pod asks for all devices of its node", _devices),
    Rule("meeting", "all pods meet at the first host, by the service's name", _meeting),
    Rule("scripts", "every pod runs a script of the export", _scripts),
)

RULES: tuple[Named, ...] = (*OWN_RULES, *RUNTIME_RULES)
