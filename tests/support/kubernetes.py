"""Checks the manifests in etc/kubernetes: kubernetes.py DIRECTORY FILE...

Validates each resource against the schemas of Kubernetes, and then what no schema says: that pods fulfil the
Pod Security Standard "restricted", that names lead to something, and that a pod has as much time to end as its
daemon takes. Writes the files of each ConfigMap to DIRECTORY, below the name of the ConfigMap. tests/kubernetes.sh
runs this, and then has the daemon check those files.
"""

import copy
import pathlib
import re
import sys

import kubernetes_validate
import yaml

# The oldest with sidecars that are on by default, and the newest whose schemas the package has.
VERSIONS = ["1.29", kubernetes_validate.latest_version()]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


def restricted(pod):
    """What of the Pod Security Standard "restricted" a pod lacks, and a file system that can be written to."""
    of_pod = pod.get("securityContext", {})
    for volume in pod.get("volumes", []):
        if not set(volume) & {"configMap", "emptyDir", "projected", "secret"}:
            yield f"volume {volume['name']}: of another kind"
    for field in "hostNetwork", "hostPID", "hostIPC":
        if pod.get(field):
            yield field
    for container in containers(pod):
        name, security = container["name"], container.get("securityContext", {})
        both = of_pod | security
        if both.get("runAsNonRoot") is not True or not both.get("runAsUser"):
            yield f"{name}: runAsNonRoot and runAsUser"
        if both.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: seccompProfile"
        if security.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name}: capabilities"
        if security.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: readOnlyRootFilesystem"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield f"{name}: a limit on memory"


def references(pod, maps):
    """Volumes and keys that are not there. The Secret is not among the manifests."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    for container in containers(pod):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{container['name']}: volume {mount['name']}"
    for volume in volumes.values():
        sources = volume.get("projected", {}).get("sources", [volume])
        for source in (source["configMap"] for source in sources if "configMap" in source):
            data = maps.get(source["name"])
            if data is None:
                yield f"ConfigMap {source['name']}"
                continue
            for item in source.get("items", []):
                if item["key"] not in data:
                    yield f"ConfigMap {source['name']}: key {item['key']}"


def time_to_end(pod, maps):
    """preStop first sleeps, then drains the daemon, for drain_timeout at most."""
    for container in pod["containers"]:
        stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        if stop is None:
            continue
        before, after = map(int, re.fullmatch(r"sleep (\d+); pkcs11proxyctl drain && sleep (\d+)", stop[-1]).groups())
        drains = [float(found) for data in maps.values()
                  for found in re.findall(r"drain_timeout = ([0-9.]+)", data["pkcs11proxyd.conf"])]
        if not drains:
            yield f"{container['name']}: no drain_timeout"
        elif before + max(drains) >= pod["terminationGracePeriodSeconds"]:
            yield f"{container['name']}: terminationGracePeriodSeconds is too short"
        elif after <= max(drains):
            yield f"{container['name']}: preStop ends before the daemon"


def problems(resources):
    """All that is wrong with the resources of a file."""
    maps = {resource["metadata"]["name"]: resource["data"] for resource in resources if resource["kind"] == "ConfigMap"}
    pods = []
    for resource in resources:
        name = f"{resource['kind']} {resource['metadata']['name']}"
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}: Kubernetes {version}: {error.message}"
        if resource["kind"] != "Deployment":
            continue
        template = resource["spec"]["template"]
        pods.append(template)
        for check in restricted(template["spec"]), references(template["spec"], maps), time_to_end(template["spec"], maps):
            for problem in check:
                yield f"{name}: {problem}"
    for resource in resources:
        spec = resource.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if selector is not None:
            labels = selector.get("matchLabels", selector).items()
            if not any(labels <= pod["metadata"]["labels"].items() for pod in pods):
                yield f"{resource['kind']} {resource['metadata']['name']}: its selector selects no pod"


# Each makes a good manifest a bad one. None may pass, so that the checks above are known to find something.
def misspell(resource):
    resource["spec"]["replica"] = 1


def as_root(resource):
    del resource["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
    for container in containers(resource["spec"]["template"]["spec"]):
        container["securityContext"].pop("runAsNonRoot", None)


def keep_capabilities(resource):
    containers(resource["spec"]["template"]["spec"])[0]["securityContext"]["capabilities"]["drop"] = ["NET_RAW"]


def rename_volume(resource):
    resource["spec"]["template"]["spec"]["volumes"][0]["name"] = "another"


def rename_label(resource):
    resource["spec"]["template"]["metadata"]["labels"] = {"app.kubernetes.io/name": "another"}


def hurry(resource):
    resource["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30


def main(directory, files):
    wrong = 0
    for file in files:
        resources = list(yaml.safe_load_all(pathlib.Path(file).read_text()))
        for problem in problems(resources):
            print(f"kubernetes: {file}: {problem}")
            wrong += 1
        changes = [misspell, as_root, keep_capabilities, rename_volume, rename_label]
        if "preStop" in pathlib.Path(file).read_text():
            changes.append(hurry)
        for change in changes:
            changed = copy.deepcopy(resources)
            change(next(resource for resource in changed if resource["kind"] == "Deployment"))
            if not list(problems(changed)):
                print(f"kubernetes: {file}: {change.__name__} was not noticed")
                wrong += 1
        for resource in resources:
            if resource["kind"] == "ConfigMap":
                folder = pathlib.Path(directory, resource["metadata"]["name"])
                folder.mkdir(parents=True)
                for name, text in resource["data"].items():
                    (folder / name).write_text(text)
        print(f"kubernetes: {file}: {len(resources)} resources, Kubernetes {' and '.join(VERSIONS)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
