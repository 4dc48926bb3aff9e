"""Judges what the charts render: every shape, with every Helm that is given, against every schema of Kubernetes from
1.29 on, against the Pod Security Standards, and against what the values asked for. Then gives wrong values, and wants a
sentence for each. Called by scripts/helm-test, which brings Helm and the schemas."""

import argparse
import base64
import copy
import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

import kubernetes_validate
import kubernetes_validate.utils
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/archiver"
EXAMPLE = ROOT / "helm/examples/pine"
REDIS = ROOT / "helm/examples/redis.yaml"
OLDEST = (1, 29)
# What the Prometheus operator defines; no schema of Kubernetes knows it.
CUSTOM = {"monitoring.coreos.com/v1": {"PodMonitor", "ServiceMonitor", "PrometheusRule"}}
# https://kubernetes.io/docs/concepts/security/pod-security-standards/
BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
# sshd has to be root to become its users.
NEEDS_ROOT = {"sftp"}

mistakes = []
passed = 0


def check(holds, what):
    global passed
    if holds:
        passed += 1
    else:
        mistakes.append(what)
        print(f"  WRONG  {what}", file=sys.stderr)


# --- rendering --------------------------------------------------------------------------------------------------------


def helm(binary, *arguments, check=True):
    done = subprocess.run([str(binary), *map(str, arguments)], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise SystemExit(f"helm {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}")
    return done


def render(binary, chart, *arguments, release="r"):
    text = helm(binary, "template", release, chart, "--namespace", "ns", *arguments).stdout
    # Kubernetes reads YAML 1.1, as PyYAML does: 0440 is octal to both.
    return [document for document in yaml.safe_load_all(text) if document]


def refusal(binary, chart, *arguments):
    done = helm(binary, "template", "r", chart, *arguments, check=False)
    return None if done.returncode == 0 else done.stderr


def pod_of(document):
    """The metadata and the spec of the pod that a document makes, if it makes one."""
    match document.get("kind"):
        case "Pod":
            return document["metadata"], document["spec"]
        case "Deployment" | "StatefulSet" | "Job":
            template = document["spec"]["template"]
        case "CronJob":
            template = document["spec"]["jobTemplate"]["spec"]["template"]
        case _:
            return None
    return template.get("metadata", {}), template["spec"]


def named(documents, kind, suffix=""):
    found = [d for d in documents if d["kind"] == kind and d["metadata"]["name"].endswith(suffix)]
    return found[0] if found else None


def container(documents, kind, name="archiver"):
    for document in documents:
        if document["kind"] == kind:
            _, spec = pod_of(document)
            for found in spec.get("initContainers", []) + spec["containers"]:
                if found["name"] == name:
                    return found, spec
    raise SystemExit(f"no container {name} in a {kind}")


def toml_of(documents):
    for document in documents:
        if document["kind"] == "ConfigMap" and "archiver.toml" in document["data"]:
            return tomllib.loads(document["data"]["archiver.toml"])
    raise SystemExit("no archiver.toml")


# --- Kubernetes' own rules --------------------------------------------------------------------------------------------

# The schemas are read again for each object otherwise, which takes most of the time.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def versions():
    all_of_them = {tuple(map(int, v.split(".")[:2])) for v in kubernetes_validate.utils.all_versions()}
    return [f"{major}.{minor}" for major, minor in sorted(all_of_them) if (major, minor) >= OLDEST]


def against_schemas(where, documents, wanted):
    for document in documents:
        name = f"{where}: {document['kind']}/{document['metadata']['name']}"
        check(len(document["metadata"]["name"]) <= 63, f"{name}: the name is too long")
        if document["kind"] in CUSTOM.get(document["apiVersion"], ()):
            check(bool(document["spec"]), f"{name}: is empty")
            continue
        for version in wanted:
            try:
                kubernetes_validate.validate(document, version, strict=True)
                check(True, "")
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                path = ".".join(map(str, getattr(error, "path", [])))
                check(False, f"{name}: Kubernetes {version} takes no {path}: {error.message[:200]}")


def pod_security(where, documents):
    for document in documents:
        pod = pod_of(document)
        if not pod:
            continue
        _, spec = pod
        name = f"{where}: {document['kind']}/{document['metadata']['name']}"
        context = spec.get("securityContext", {})
        check(spec.get("automountServiceAccountToken") is False, f"{name}: has a token of the service account")
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            check(not spec.get(key), f"{name}: {key}")
        for volume in spec.get("volumes", []):
            kinds = set(volume) - {"name"}
            check(kinds <= RESTRICTED_VOLUMES and len(kinds) == 1, f"{name}: volume {volume['name']} is {kinds}")
        volumes = {v["name"] for v in spec.get("volumes", [])}
        volumes |= {c["metadata"]["name"] for c in document["spec"].get("volumeClaimTemplates", [])}
        containers = spec.get("initContainers", []) + spec["containers"]
        names = [c["name"] for c in containers]
        check(len(names) == len(set(names)), f"{name}: two containers of one name")
        for one in containers:
            own = one.get("securityContext", {})
            what = f"{name}, {one['name']}"

            def effective(key, own=own, context=context):
                return own.get(key, context.get(key))

            capabilities = own.get("capabilities", {})
            check(own.get("privileged") is not True, f"{what}: is privileged")
            check(own.get("allowPrivilegeEscalation") is False, f"{what}: may gain privileges")
            check("ALL" in capabilities.get("drop", []), f"{what}: keeps capabilities")
            profile = (effective("seccompProfile") or {}).get("type")
            check(profile in ("RuntimeDefault", "Localhost"), f"{what}: seccomp profile {profile}")
            check(not any("hostPort" in port for port in one.get("ports", [])), f"{what}: takes a port of the host")
            for mount in one.get("volumeMounts", []):
                check(mount["name"] in volumes, f"{what}: mounts {mount['name']}, which is no volume of the pod")
            if one["name"] in NEEDS_ROOT:
                check(set(capabilities.get("add", [])) <= BASELINE_CAPABILITIES, f"{what}: more than baseline")
                continue
            check(not capabilities.get("add"), f"{what}: adds capabilities")
            check(effective("runAsNonRoot") is True, f"{what}: may run as root")
            check(effective("runAsUser") != 0, f"{what}: runs as root")
            check(own.get("readOnlyRootFilesystem") is True, f"{what}: writes to its image")


# --- what the values ask for ------------------------------------------------------------------------------------------


def rules_of_the_house(where, documents):
    labels = {f"app.kubernetes.io/{key}" for key in ("name", "instance", "version", "part-of", "managed-by")}
    for document in documents:
        name = f"{where}: {document['kind']}/{document['metadata']['name']}"
        check(labels | {"helm.sh/chart"} <= set(document["metadata"].get("labels", {})), f"{name}: labels are missing")
        check(document["metadata"].get("namespace") == "ns", f"{name}: no namespace")
        if document["kind"] == "Secret":
            check(where.startswith("demo"), f"{name}: the chart makes a Secret")
        if selector := document["spec"].get("selector") if isinstance(document.get("spec"), dict) else None:
            if document["kind"] in ("Deployment", "StatefulSet"):
                metadata, _ = pod_of(document)
                check(selector["matchLabels"].items() <= metadata["labels"].items(), f"{name}: selects other pods")


def mode_of(spec, volume):
    return next(v for v in spec["volumes"] if v["name"] == volume)["secret"]["defaultMode"]


def shapes(binary, shape):
    """Facts of each shape that no schema can know."""
    documents = shape("deployment")
    watch, spec = container(documents, "Deployment")
    check(toml_of(documents)["source"] == [{"name": "data", "paths": ["/data"]}], "deployment: no source by default")
    check(watch["args"] == ["watch", "--termination-log", "/dev/termination-log"], "deployment: arguments")
    check(spec["terminationGracePeriodSeconds"] == 30, "deployment: 25 s of grace and 5")
    check({"startupProbe", "livenessProbe", "readinessProbe"} <= set(watch), "deployment: probes")
    check(mode_of(spec, "archiver-secret") == 0o440, "deployment: mode of the Secret")
    check(named(documents, "Deployment")["spec"]["strategy"]["type"] == "Recreate", "deployment: strategy")
    claim = named(documents, "PersistentVolumeClaim", "-state")
    check(claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", "deployment: the ledger is not kept")

    documents = shape("deployment-all")
    values = yaml.safe_load((CHART / "ci/deployment-all.yaml").read_text())
    check(toml_of(documents) == values["config"], "deployment-all: the TOML says something else than the values")
    check(isinstance(toml_of(documents)["retry"]["max-attempts"], int), "deployment-all: 12 became 12.0")
    watch, spec = container(documents, "Deployment")
    check(spec["terminationGracePeriodSeconds"] == 95, "deployment-all: 1m 30s of grace and 5")
    check(watch["image"].endswith("@" + values["image"]["digest"]), "deployment-all: digest")
    ports = [p["port"] for rule in named(documents, "NetworkPolicy")["spec"]["egress"] for p in rule["ports"]]
    check(sorted(ports) == [22, 53, 53, 2222, 3128], f"deployment-all: ports of the network policy: {ports}")
    budget = named(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    check(budget.items() <= pod_of(named(documents, "Deployment"))[0]["labels"].items(), "deployment-all: budget")
    service, monitor = named(documents, "Service", "-metrics"), named(documents, "ServiceMonitor")
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    check(selected <= service["metadata"]["labels"].items(), "deployment-all: the monitor finds no service")
    check(service["spec"]["ports"][0]["targetPort"] in [p["name"] for p in watch["ports"]], "deployment-all: port")

    before = pod_of(named(shape("deployment"), "Deployment"))[0]["annotations"]
    after = pod_of(named(shape("deployment", "--set", "config.settle=9s"), "Deployment"))[0]["annotations"]
    check(before != after, "deployment: a changed configuration makes no new pod")

    silent, _ = container(shape("deployment", "--set", "metrics.enabled=false"), "Deployment")
    check({"name": "ARCHIVER_METRICS", "value": "none"} in silent["env"], "deployment: the image's own port is open")
    check("livenessProbe" not in silent and "ports" not in silent, "deployment: probes of nothing")

    documents = shape("replicas")
    watch, spec = container(documents, "Deployment")
    check(spec["terminationGracePeriodSeconds"] == 45, "replicas: grace of a configuration in text")
    check(named(documents, "PersistentVolumeClaim") is None, "replicas: a claim for a ledger that is in Redis")
    check(named(documents, "Deployment")["spec"]["strategy"]["type"] == "RollingUpdate", "replicas: strategy")
    check(named(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1, "replicas: all may go at once")
    spread = spec["topologySpreadConstraints"][0]
    labels = pod_of(named(documents, "Deployment"))[0]["labels"].items()
    check(spread["labelSelector"]["matchLabels"].items() <= labels, "replicas: spread beside other pods")
    check(spread["whenUnsatisfiable"] == "ScheduleAnyway", "replicas: a single node would keep pods waiting")
    chosen = container(shape("replicas", "--set-json", 'affinity={"podAffinity":{}}'), "Deployment")[1]
    check("topologySpreadConstraints" not in chosen, "replicas: a choice of the values is overruled")
    without = shape("replicas", "--set", "podDisruptionBudget.enabled=false")
    check(named(without, "PodDisruptionBudget") is None, "replicas: a budget that nobody wanted")
    check(named(shape("deployment"), "PodDisruptionBudget") is None, "deployment: a budget for a single pod")
    environment = {e["name"]: e for e in watch["env"]}
    redis = environment["ARCHIVER_LEDGER_PASSWORD_FILE"]["value"]
    check(redis == "/run/secrets/ledger/redis-password", "replicas: password of the ledger")
    keys = [i["key"] for v in spec["volumes"] if v["name"] == "archiver-secret" for i in v["secret"]["items"]]
    check(keys == ["password", "known_hosts"], f"replicas: keys of the Secret: {keys}")
    secret = next(v["secret"] for v in spec["volumes"] if v["name"] == "archiver-ledger")
    check(secret["secretName"] == "redis" and secret["defaultMode"] == 0o440, f"replicas: Redis's Secret: {secret}")
    check("ARCHIVER_IDENTITY" not in environment, "replicas: an identity that is not there")
    check(environment["ARCHIVER_PASSWORD_FILE"]["value"] == "/run/secrets/archiver/password", "replicas: password")
    ports = [p["port"] for rule in named(documents, "NetworkPolicy")["spec"]["egress"] for p in rule["ports"]]
    check(sorted(ports) == [22, 53, 53, 6379, 26380], f"replicas: ports of the network policy: {ports}")
    text = (CHART / "ci/replicas.yaml").read_text().replace("redis+sentinel://", "rediss+sentinel://")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        secured = render(binary, CHART, "--values", file.name, "--set", "ledger.ca=ca.crt")
    environment = {e["name"]: e.get("value") for e in container(secured, "Deployment")[0]["env"]}
    check(environment["ARCHIVER_LEDGER__CA_FILE"] == "/run/secrets/ledger/ca.crt", "replicas, TLS: certificates")
    check(named(secured, "NetworkPolicy")["spec"] == named(documents, "NetworkPolicy")["spec"], "replicas, TLS: ports")

    test = named(documents, "Pod", "-test")["spec"]["containers"][0]["args"]
    check("--to=sftp://pine@sftp.example.org/upload" in test, f"replicas: helm test goes nowhere: {test}")

    documents = shape("cronjob")
    push, spec = container(documents, "CronJob")
    job = named(documents, "CronJob")["spec"]
    check(push["args"] == ["push", "--termination-log", "/dev/termination-log"], "cronjob: arguments")
    check("livenessProbe" not in push, "cronjob: there is nothing to probe")
    check(job["concurrencyPolicy"] == "Forbid" and spec["restartPolicy"] == "Never", "cronjob: policies")
    check(job["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2], "cronjob: code 2")
    onfailure = named(shape("cronjob", "--set", "cronjob.restartPolicy=OnFailure"), "CronJob")
    check("podFailurePolicy" not in onfailure["spec"]["jobTemplate"]["spec"], "cronjob: Kubernetes refuses the two")

    documents = shape("sidecar")
    kinds = sorted(d["kind"] for d in documents)
    check(kinds == ["ConfigMap", "ConfigMap", "Pod", "PodMonitor"], f"sidecar: makes {kinds}")

    documents = shape("demo")
    _, spec = container(documents, "Deployment")
    check(all("restartPolicy" in c for c in spec["initContainers"] if c["name"] == "archiver"), "demo: no sidecar")
    pine = named(documents, "ConfigMap", "-pine")["data"]["pine"]
    check(pine.strip() == (ROOT / "scripts/pine").read_text().strip(), "demo: another pine")
    keys_of_the_demo(documents)


def keys_of_the_demo(documents):
    server = {k: base64.b64decode(v) for k, v in named(documents, "Secret", "-sftp-keys")["data"].items()}
    client = {k: base64.b64decode(v) for k, v in named(documents, "Secret", "archiver-keys")["data"].items()}
    url = toml_of(documents)["destination"]["url"]
    names, known = client["known_hosts"].decode().split(" ", 1)
    check(re.search("@([^/]+)/", url)[1] in names.split(","), f"demo: {url} is not in known_hosts")
    if not shutil.which("ssh-keygen"):
        print("  NOT CHECKED: there is no ssh-keygen to read the demo's keys with", file=sys.stderr)
        return
    for private, public, what in (
        (client["id_ed25519"], server["authorized_key"].decode(), "the identity"),
        (server["host_key"], known, "the host key"),
    ):
        with tempfile.NamedTemporaryFile() as file:
            file.write(private)
            file.flush()
            said = subprocess.run(["ssh-keygen", "-y", "-f", file.name], capture_output=True, text=True)
        check(said.stdout.split()[:2] == public.split()[:2], f"demo: OpenSSH reads {what} otherwise {said.stderr}")


def example(binary, wanted, work):
    """The parent chart, with its dependency from this checkout."""
    chart = work / "pine"
    for variant, arguments in (
        ("native", []),
        ("classic", ["--set", "sidecar=classic"]),
    ):
        documents = render(binary, chart, *arguments)
        against_schemas(f"example, {variant}", documents, wanted)
        pod_security(f"example, {variant}", documents)
        watch, spec = container(documents, "StatefulSet")
        check(spec["terminationGracePeriodSeconds"] == 45, f"example, {variant}: 15 s for pine, 25 s of grace and 5")
        check("readinessProbe" not in watch, f"example, {variant}: an outage would take pine out of its Service")
        check("livenessProbe" in watch, f"example, {variant}: probes")
        at_start = watch in spec.get("initContainers", [])
        check(at_start == (variant == "native"), f"example, {variant}: in the wrong list")
        check(("restartPolicy" in watch) == (variant == "native"), f"example, {variant}: restartPolicy")
        check(("lifecycle" in watch) == (variant == "classic"), f"example, {variant}: preStop")
    # Two archivers in one pod, by an alias, share no name and no port.
    twice = work / "twice"
    shutil.rmtree(twice, ignore_errors=True)
    shutil.copytree(chart, twice)
    manifest = yaml.safe_load((twice / "Chart.yaml").read_text())
    manifest["dependencies"].append(manifest["dependencies"][0] | {"alias": "second"})
    (twice / "Chart.yaml").write_text(yaml.safe_dump(manifest))
    values = yaml.safe_load((twice / "values.yaml").read_text())
    values["second"] = copy.deepcopy(values["archiver"]) | {"metrics": {"port": 9465}, "state": {"emptyDir": True}}
    (twice / "values.yaml").write_text(yaml.safe_dump(values))
    template = twice / "templates/statefulset.yaml"
    text = template.read_text()
    for include, indent in (("nativeSidecar", 10), ("volumes", 8)):
        line = re.search(r"^ *(- )?\{\{-? *include \"archiver.sidecar." + include + r".*\n", text, re.M)[0]
        text = text.replace(line, line + line.replace("$archiver", ".Subcharts.second"), 1)
    template.write_text(text)
    documents = render(binary, twice)
    pod_security("example, two of them", documents)
    _, spec = container(documents, "StatefulSet")
    ports = [p for c in spec["initContainers"] for p in c.get("ports", [])]
    check(len({p["name"] for p in ports}) == len({p["containerPort"] for p in ports}) == 2, "example: two of them, ports")
    volumes = [v["name"] for v in spec["volumes"]]
    check(len(volumes) == len(set(volumes)), f"example: two of them, volumes {volumes}")
    configs = [d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"]
    check(len(configs) == len(set(configs)), f"example: two of them, ConfigMaps {configs}")


def redis(wanted):
    documents = list(yaml.safe_load_all(REDIS.read_text()))
    against_schemas("example, Redis", documents, wanted)
    pod_security("example, Redis", documents)


def documentation(binary, wanted):
    """What docs/kubernetes.md tells people to write has to be taken."""
    text = (ROOT / "docs/kubernetes.md").read_text()
    rendered = 0
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S):
        content = yaml.safe_load(block)
        if "kind" in content:
            against_schemas("docs/kubernetes.md", [content], wanted)
            pod_security("docs/kubernetes.md", [content])
        elif block.startswith("# values.yaml"):
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(content.get("archiver", content), file)
                file.flush()
                documents = render(binary, CHART, "--values", file.name)
            pod_security("docs/kubernetes.md", documents)
            rendered += 1
        else:
            check("dependencies" in content, f"docs/kubernetes.md: what is this? {block[:60]}")
    check(rendered == 3, f"docs/kubernetes.md: {rendered} values.yaml")
    templates = set(re.findall(r"archiver\.sidecar\.\w+", text))
    defined = set(re.findall(r"define \"(archiver\.sidecar\.\w+)", (CHART / "templates/_sidecar.tpl").read_text()))
    check(templates == defined, f"docs/kubernetes.md: templates {templates ^ defined}")


# --- wrong values -----------------------------------------------------------------------------------------------------

# Which shape's values, what is changed in them, and a part of the sentence that has to come.
REFUSED = [
    (None, [], "source.existingClaim: name the PersistentVolumeClaim"),
    (None, [], "secret.name: name an existing Secret"),
    (None, [], "config.destination.url: say where"),
    ("cronjob", ["source.existingClaim="], "source.existingClaim: name the PersistentVolumeClaim"),
    ("deployment", ["config.destination.url=ftp://host/in"], "has to begin with sftp://"),
    ("deployment", ["config.destination.url=sftp://pine:s3cret@host/in"], "put that into the Secret"),
    ("deployment", ["secret.identity="], "secret.identity or secret.password"),
    ("deployment", ["secret.knownHosts="], "has to pin the server's key"),
    ("deployment", ["deployment.replicas=2"], "several archivers need one ledger, in Redis"),
    ("deployment", ["deployment.replicas=2"], "the claim has to be ReadWriteMany"),
    ("replicas", ["source.shared=false"], "the claim has to be ReadWriteMany"),
    ("deployment", ["ledger.password=redis"], "are for a ledger in Redis"),
    ("deployment", ["config.ledger.url=redis://:s3cret@redis"], "name its key in ledger.password"),
    ("replicas", ["ledger.password="], "name the keys in redis that are meant"),
    ("deployment", ["config.ledger.dedupe=content", "config.destination.publish=direct"], "leave one of them out"),
    ("replicas", ["ledger.ca=ca.crt"], "config.ledger.url does not ask for it"),
    ("deployment", ["config.ledger.url=rediss://redis"], "the image has no certificates to check a rediss:// server's"),
    ("replicas", ["state.existingClaim=ledger"], "cannot share a ledger in a file"),
    ("replicas", ["configText=[destination"], "configText is not TOML"),
    ("replicas", ["configText=settle = \"2s\""], "has no [[source]]"),
    ("replicas", ["config.settle=2s"], "two ways to say the same"),
    ("deployment", ["state.emptyDir=true"], "would be lost with each pod"),
    ("deployment", ["state.emptyDir=true", "state.existingClaim=a"], "three places for one ledger"),
    ("deployment", ["state.existingClaim=reports"], "the ledger would lie among the files"),
    ("deployment", ["state.volume=a"], "somebody else's pod"),
    ("sidecar", ["state.emptyDir=false"], "say where the ledger of a sidecar is"),
    ("sidecar", ["source.volume="], "name the volume of your pod"),
    ("sidecar", ["networkPolicy.enabled=true"], "one for your whole pod"),
    ("sidecar", ["monitor.selector=null"], "give the labels of your pods"),
    ("deployment", ["config.source[0].name=a", "config.source[0].paths[0]=/elsewhere"], "/elsewhere is on no volume"),
    ("cronjob", ["config.source[0].after=delete"], "has after: delete, which has to write to the volume"),
    ("deployment", ["config.shutdown.grace=soon"], "is no duration"),
    ("deployment", ["config.shutdown.grace=30"], "is no duration"),
    ("deployment", ["config.metrics.listen=:1"], "say which port with metrics.port"),
    ("cronjob", ["monitor.kind=PodMonitor"], "pods of a CronJob end before anybody looks"),
    ("deployment", ["monitor.kind=PodMonitor", "metrics.enabled=false"], "nothing to look at without metrics.enabled"),
    ("demo", ["secret.name=mine"], "belong together; give both or none"),
    ("demo", ["secret.identity="], "neither can be empty"),
    # By the schema; its sentences are Helm's.
    ("deployment", ["shape=statefulset"], "shape"),
    ("deployment", ["replicaCount=2"], "replicaCount"),
    ("deployment", ["config.destinaton.url=x"], "destinaton"),
    ("deployment", ["config.ledger.dedupe=false"], "dedupe"),
    ("deployment", ["config.ledger.dedupe=bytes"], "dedupe"),
    ("deployment", ["deployment.replicas=two"], "replicas"),
    ("deployment", ["metrics.port=80"], "port"),
    ("deployment", ["secret.name=Not_A_Name"], "name"),
    ("deployment", ["state.size=large"], "size"),
    ("deployment", ["state.accessMode=ReadWriteMany"], "accessMode"),
    ("deployment", ["image.digest=latest"], "digest"),
    ("cronjob", ["cronjob.schedule=daily"], "schedule"),
    ("cronjob", ["cronjob.restartPolicy=Always"], "restartPolicy"),
    ("deployment", ["source.mountPath=data"], "mountPath"),
]  # fmt: skip


def refusals(binary):
    for shape, changes, sentence in REFUSED:
        arguments = ["--values", CHART / f"ci/{shape}.yaml"] if shape else []
        for change in changes:
            # A comma or a brace belongs to the value.
            arguments += ["--set", re.sub(r"([,{}])", r"\\\1", change)]
        said = refusal(binary, CHART, *arguments)
        check(said is not None, f"{shape} with {changes} is taken")
        check(said is None or sentence in said, f"{shape} with {changes}: no “{sentence}” in: {said}")
        check(said is None or "s3cret" not in said, f"{shape} with {changes}: the password is repeated")


# --- the values themselves --------------------------------------------------------------------------------------------


def values_and_schema():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def same(path, part, value):
        properties = part.get("properties")
        if not properties or part.get("additionalProperties") is not False or not isinstance(value, dict):
            return
        # The keys of archiver.toml, and what Helm itself gives to a chart that another one depends on.
        foreign = set(properties) if path == ".config" else {"global", "enabled"} if not path else set()
        optional = foreign | ({"claims"} if path == ".resources" else set())
        if path.startswith(".probes."):
            optional |= set(properties)
        check(set(value) <= set(properties), f"values.yaml{path}: {set(value) - set(properties)} not in the schema")
        missing = set(properties) - optional - set(value)
        check(not missing, f"values.schema.json{path}: {missing} not in values.yaml")
        for key, inner in value.items():
            same(f"{path}.{key}", properties.get(key, {}), inner)

    same("", schema, values)
    reference = (ROOT / "docs/configuration.md").read_text()
    tables = set(re.findall(r"^### `\[+([a-z-]+)\]+`$", reference, re.M))
    top = reference.split("### The top level")[1].split("###")[0]
    keys = tables | set(re.findall(r"^\| `([a-z-]+)` \|", top, re.M))
    known = set(schema["properties"]["config"]["properties"])
    check(keys <= known, f"values.schema.json: config lacks {keys - known} of docs/configuration.md")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--helm", action="append", required=True)
    given = parser.parse_args()
    wanted = versions()
    print(f"Kubernetes {wanted[0]} to {wanted[-1]}, {len(given.helm)} versions of Helm", file=sys.stderr)
    values_and_schema()
    redis(wanted)
    first = {}
    for binary in given.helm:
        print(helm(binary, "version", "--short").stdout.strip(), file=sys.stderr)

        def shape(name, *more, binary=binary):
            return render(binary, CHART, "--values", CHART / f"ci/{name}.yaml", *more)

        for file in sorted((CHART / "ci").glob("*.yaml")):
            linted = helm(binary, "lint", "--strict", CHART, "--values", file, check=False)
            check(linted.returncode == 0, f"helm lint of {file.stem}: {linted.stdout}{linted.stderr}")
            documents = shape(file.stem)
            rules_of_the_house(file.stem, documents)
            pod_security(file.stem, documents)
            against_schemas(file.stem, documents, wanted)
            # What is drawn at random differs from one rendering to the next.
            plain = sorted((json.dumps(d, sort_keys=True) for d in documents if d["kind"] != "Secret"))
            check(first.setdefault(file.stem, plain) == plain, f"{file.stem}: two versions of Helm render it differently")
        shapes(binary, shape)
        documentation(binary, wanted)
        refusals(binary)

        # Alerts and dashboard are in the chart, or are refused by name.
        for value, path in (("prometheusRule", "alerts/archiver.rules.yaml"), ("dashboard", "dashboards/archiver.json")):
            arguments = ["--values", CHART / "ci/deployment.yaml", "--set", f"{value}.enabled=true"]
            if (CHART / path).exists():
                documents = render(binary, CHART, *arguments)
                against_schemas(value, documents, wanted)
                if value == "dashboard":
                    content = named(documents, "ConfigMap", "-dashboard")["data"]["archiver.json"]
                    check(json.loads(content) == json.loads((CHART / path).read_text()), "dashboard: another one")
                else:
                    groups = named(documents, "PrometheusRule")["spec"]["groups"]
                    check(groups == yaml.safe_load((CHART / path).read_text())["groups"], "prometheusRule: others")
            else:
                check(f"has no {path}" in (refusal(binary, CHART, *arguments) or ""), f"{value}: is taken without {path}")

        with tempfile.TemporaryDirectory() as directory:
            work = pathlib.Path(directory)
            package = helm(binary, "package", CHART, "--destination", work).stdout.split()[-1]
            documents = render(binary, package, "--set", "shape=demo")
            check(named(documents, "ConfigMap", "-pine") is not None, "the packaged chart has no pine")
            shutil.copytree(EXAMPLE, work / "pine", ignore=shutil.ignore_patterns("charts", "Chart.lock"))
            (work / "pine/charts").mkdir()
            shutil.copy(package, work / "pine/charts")
            linted = helm(binary, "lint", "--strict", work / "pine", check=False)
            check(linted.returncode == 0, f"helm lint of the example: {linted.stdout}{linted.stderr}")
            example(binary, wanted, work)

    print(f"{passed} checks held, {len(mistakes)} did not", file=sys.stderr)
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
