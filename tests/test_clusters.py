import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from rsf_dist.config.load import parse_config
from rsf_dist.config.run import RunConfig

CLUSTERS = Path(__file__).parents[1] / "clusters"
RAYJOB = CLUSTERS / "kuberay" / "rayjob.yaml"
LAUNCHER_FILES = ("local.yaml", "aws.yaml")
CRD = Path(__file__).with_name("crds") / "ray.io_rayjobs.yaml.gz"  # KubeRay's own, Apache 2.0
LAUNCHER_SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def launcher(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / name).read_text())


def manifests() -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all(RAYJOB.read_text())}


def run_config() -> RunConfig:
    return parse_config(yaml.safe_load(manifests()["ConfigMap"]["data"]["config.yaml"]))


def worker_groups() -> dict[str, dict[str, Any]]:
    groups = manifests()["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return {group["groupName"]: group for group in groups}


def strict(schema: Any) -> Any:
    """A CRD's structural schema as the API server's strict validation reads it: unknown fields are errors."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(part) for key, part in schema.items()}
    if out.get("x-kubernetes-int-or-string"):
        out["type"] = ["integer", "string"]
    # Among the fields of an object, `properties` and `type` may be names too; their values are schemas then.
    fields = schema.get("properties")
    if schema.get("type") == "object" and isinstance(fields, dict) and "additionalProperties" not in schema:
        out["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return out


@pytest.fixture(scope="module")
def rayjob_validator() -> jsonschema.Draft7Validator:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 1.4 MB of YAML: ten times faster where libyaml is there
    crd = yaml.load(gzip.decompress(CRD.read_bytes()), Loader=loader)
    (version,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    # A CRD leaves metadata to the API server.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return jsonschema.Draft7Validator(schema)


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_launcher_file_fits_rays_schema(name: str) -> None:
    jsonschema.validate(launcher(name), LAUNCHER_SCHEMA, jsonschema.Draft7Validator)


@pytest.mark.parametrize("name", LAUNCHER_FILES)
@pytest.mark.parametrize("fault", [{"max_worker": 3}, {"idle_timeout_minutes": "5"}, {"provider": {"region": "x"}}])
def test_faulty_launcher_file_is_refused(name: str, fault: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(launcher(name) | fault, LAUNCHER_SCHEMA, jsonschema.Draft7Validator)


def test_aws_head_runs_no_tasks_and_workers_start_from_zero() -> None:
    config = launcher("aws.yaml")
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])  # a name that is not there would be a KeyError
    assert head["resources"] == {"CPU": 0}
    assert all(worker["min_workers"] == 0 < worker["max_workers"] for worker in types.values())
    assert config["max_workers"] == sum(worker["max_workers"] for worker in types.values())


def test_rayjob_fits_kuberays_schema(rayjob_validator: jsonschema.Draft7Validator) -> None:
    job = manifests()["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    rayjob_validator.validate(job)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("shutDownAfterJobFinishes", True),  # a letter's case
        ("ttlSecondsAfterFinished", "600"),  # a string
        ("rayClusterSpec.authOptions.mode", "tokens"),  # not of the enumeration
        ("rayClusterSpec.workerGroupSpecs.0.minReplica", 0),  # deep, and misspelt
        ("rayClusterSpec.headGroupSpec.template.spec.containers.0.resources.limits.cpu", 1.5),  # neither int nor string
    ],
)
def test_faulty_rayjob_is_refused(rayjob_validator: jsonschema.Draft7Validator, path: str, value: object) -> None:
    job = json.loads(json.dumps(manifests()["RayJob"]))  # a copy without YAML's shared nodes
    *parents, leaf = path.split(".")
    node: Any = job["spec"]
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) else node[parent]
    node[leaf] = value
    with pytest.raises(jsonschema.ValidationError):
        rayjob_validator.validate(job)


def test_rayjobs_names_agree() -> None:
    parts = manifests()
    cluster = parts["RayJob"]["spec"]["rayClusterSpec"]
    claim, config_map = parts["PersistentVolumeClaim"], parts["ConfigMap"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert parts["RayJob"]["spec"]["entrypoint"] == "rsf run /config/config.yaml"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert volumes[mounts["/data"]]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        if "/config" in mounts:
            assert volumes[mounts["/config"]]["configMap"]["name"] == config_map["metadata"]["name"]
    assert run_config().output.startswith("/data/")


def test_rayjobs_run_fits_its_cluster() -> None:
    config, groups = run_config(), worker_groups()
    sampler, trainer = groups["sampler"], groups["trainer"]
    cpus = int(sampler["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert config.sampling.pool.max_actors == sampler["maxReplicas"] * cpus
    assert config.training.use_gpu
    assert config.training.num_workers <= trainer["maxReplicas"]


def all_files() -> Iterator[Path]:
    return (path for path in CLUSTERS.rglob("*") if path.is_file())


# A credential's name with a value of eight characters or more, AWS's key ids, private keys, Ray's own tokens.
SECRET = re.compile(
    r"(?i:(token|password|secret|access_key)\w*)[\"']?\s*[:=]\s*[\"']?(?![~/])[\w+/=-]{8,}"
    r"|AKIA[0-9A-Z]{16}|PRIVATE KEY-|[0-9a-f]{32}"
)


@pytest.mark.parametrize("path", all_files(), ids=lambda path: path.name)
def test_no_secret(path: Path) -> None:
    assert SECRET.search(path.read_text()) is None


@pytest.mark.parametrize(
    "text", ["RAY_AUTH_TOKEN=0f5d2a9c77", "password: hunter2hunter2", "AKIA" + "A" * 16, f"x {'0f' * 16}"]
)
def test_secret_is_found(text: str) -> None:
    assert SECRET.search(text)


def test_authentication_stays_on() -> None:
    for name in LAUNCHER_FILES:
        config = launcher(name)
        starts = [
            command
            for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]
            if "ray start" in command
        ]
        assert len(starts) == 2
        assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
        assert any("RAY_AUTH_MODE=token" in command for command in config["initialization_commands"])  # for drivers
        assert "~/.ray/auth_token" in config["file_mounts"]
    assert manifests()["RayJob"]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert not any(re.search(r"RAY_AUTH_MODE\W+disabled|mode: disabled", path.read_text()) for path in all_files())
