"""Runs the pods that the charts render in containers of Docker, as a kubelet would: users and groups, a read-only root, no
capabilities, volumes with the modes and links that Kubernetes gives them, variables, probes, the order of start and of
stop, the termination message. What arrives at the SFTP server is compared with what was written, byte for byte. Called
by `scripts/helm-test --run`, as root, for volumes belong to many users."""

import argparse
import base64
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/archiver"
EXAMPLE = ROOT / "helm/examples/pine"
REDIS = ROOT / "helm/examples/redis.yaml"
PROJECT = f"archiver-helm-{os.getpid()}"
# A deadline, nothing that is waited for.
PATIENCE = 240


class Failed(Exception):
    """Something is not as it should be."""


def say(text):
    print(f"  {text}", file=sys.stderr, flush=True)


def docker(*arguments, check=True):
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise Failed(f"docker {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout.strip()


def until(what, holds, patience=PATIENCE, why=lambda: ""):
    deadline = time.monotonic() + patience
    while not (result := holds()):
        if time.monotonic() > deadline:
            raise Failed(f"in vain, waited for: {what} {why()}")
        time.sleep(0.1)
    return result


def own(path, uid, gid, mode):
    os.chown(path, uid, gid)
    os.chmod(path, mode)


# --- what a cluster has besides pods ----------------------------------------------------------------------------------


class Cluster:
    """ConfigMaps, Secrets and claims, and the network that Services have their names in."""

    def __init__(self, work, image):
        self.work = work
        self.image = image
        self.objects = {}
        self.claims = {}
        self.pods = []
        docker("network", "create", PROJECT)

    def apply(self, documents):
        for document in documents:
            self.objects[document["kind"], document["metadata"]["name"]] = document

    def data(self, kind, name):
        if (kind, name) not in self.objects:
            raise Failed(f"there is no {kind} {name}")
        data = self.objects[kind, name]["data"]
        return {k: base64.b64decode(v) if kind == "Secret" else v.encode() for k, v in data.items()}

    def secret(self, name, **data):
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self.apply([{"kind": "Secret", "metadata": {"name": name}, "data": encoded}])

    def claim(self, name):
        """A new filesystem: its root belongs to root."""
        if name not in self.claims:
            self.claims[name] = self.work / "claims" / name
            self.claims[name].mkdir(parents=True)
            own(self.claims[name], 0, 0, 0o755)
        return self.claims[name]

    def services(self, labels):
        """The names under which a pod with these labels is reached."""
        for (kind, name), document in self.objects.items():
            if kind == "Service" and document["spec"]["selector"].items() <= labels.items():
                yield from (name, f"{name}.ns.svc", f"{name}.ns.svc.cluster.local")

    def end(self):
        for pod in self.pods:
            pod.remove()
        docker("network", "rm", PROJECT, check=False)


class Pod:
    """One pod of a Deployment, StatefulSet, CronJob, or by itself."""

    def __init__(self, cluster, kind, name, aliases=()):
        document = cluster.objects[kind, name]
        match kind:
            case "Pod":
                template = document
            case "CronJob":
                template = document["spec"]["jobTemplate"]["spec"]["template"]
            case _:
                template = document["spec"]["template"]
        self.cluster = cluster
        self.name = f"{name}-{len(cluster.pods)}"
        self.spec = template["spec"]
        self.aliases = [*cluster.services(template["metadata"].get("labels", {})), *aliases]
        self.context = self.spec.get("securityContext", {})
        self.place = cluster.work / self.name
        self.place.mkdir()
        self.templates = [t["metadata"]["name"] for t in document["spec"].get("volumeClaimTemplates", [])]
        self.started = []
        cluster.pods.append(self)
        self.volumes = {v["name"]: self.volume(v) for v in self.spec.get("volumes", [])}
        for template in self.templates:
            self.volumes[template] = self.owned(cluster.claim(f"{template}-{name}-0"))

    # Volumes

    def owned(self, path):
        """What fsGroup does to a volume that can be written to."""
        if group := self.context.get("fsGroup"):
            for directory, _, files in os.walk(path):
                os.chown(directory, -1, group)
                os.chmod(directory, os.stat(directory).st_mode | 0o2770)
                for file in files:
                    inner = pathlib.Path(directory) / file
                    os.chown(inner, -1, group)
                    os.chmod(inner, os.stat(inner).st_mode | 0o660)
        return path

    def volume(self, volume):
        if "persistentVolumeClaim" in volume:
            return self.owned(self.cluster.claim(volume["persistentVolumeClaim"]["claimName"]))
        path = self.place / "volumes" / volume["name"]
        path.mkdir(parents=True)
        if "emptyDir" in volume:
            own(path, 0, 0, 0o777)
            return self.owned(path)
        if "configMap" in volume:
            source, data = volume["configMap"], self.cluster.data("ConfigMap", volume["configMap"]["name"])
        elif "secret" in volume:
            source, data = volume["secret"], self.cluster.data("Secret", volume["secret"]["secretName"])
        else:
            raise Failed(f"{self.name}: no kubelet of ours knows the volume {volume}")
        # As the kubelet writes them: a directory of this version, a link to it, and links to what is in it.
        version = path / "..2026_11_21_12_00_00.1"
        version.mkdir()
        (path / "..data").symlink_to(version.name)
        group = self.context.get("fsGroup", 0)
        mode = source.get("defaultMode", 0o644) | (0o440 if group else 0)
        for item in source.get("items", [{"key": key, "path": key} for key in data]):
            if item["key"] not in data:
                raise Failed(f"references non-existent key: {item['key']}")
            (version / item["path"]).write_bytes(data[item["key"]])
            own(version / item["path"], 0, group, mode)
            (path / item["path"]).symlink_to(f"..data/{item['path']}")
        for directory in (path, version):
            own(directory, 0, group, 0o755)
        return path

    def mounts(self, container):
        for mount in container.get("volumeMounts", []):
            path = self.volumes[mount["name"]]
            if sub := mount.get("subPath"):
                # A file of a Secret is a link; the kubelet mounts what it leads to.
                path = (path / sub).resolve()
                if not path.exists():
                    path.mkdir()
                    self.owned(path)
            readonly = ",readonly" if mount.get("readOnly") else ""
            yield f"type=bind,source={path},target={mount['mountPath']}{readonly}"

    # Containers

    def start_container(self, container):
        name = f"{PROJECT}-{self.name}-{container['name']}"
        message = self.place / f"termination-{container['name']}"
        message.touch()
        message.chmod(0o666)
        own_context = container.get("securityContext", {})

        def effective(key):
            return own_context.get(key, self.context.get(key))

        # `--init` would be process 1 in the archiver's place.
        arguments = ["run", "--detach", "--name", name, "--network", PROJECT, "--hostname", self.name]
        for alias in self.aliases:
            arguments += ["--network-alias", alias]
        if (user := effective("runAsUser")) is not None:
            arguments += ["--user", f"{user}:{effective('runAsGroup') or 0}"]
        if group := self.context.get("fsGroup"):
            arguments += ["--group-add", str(group)]
        if own_context.get("readOnlyRootFilesystem"):
            arguments += ["--read-only"]
        if own_context.get("allowPrivilegeEscalation") is False:
            arguments += ["--security-opt", "no-new-privileges"]
        for capability in own_context.get("capabilities", {}).get("drop", []):
            arguments += ["--cap-drop", capability]
        for capability in own_context.get("capabilities", {}).get("add", []):
            arguments += ["--cap-add", capability]
        if memory := container.get("resources", {}).get("limits", {}).get("memory"):
            arguments += ["--memory", memory.replace("Mi", "m").replace("Gi", "g")]
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                value = self.cluster.data("Secret", reference["name"])[reference["key"]].decode()
            else:
                value = variable["value"]
            arguments += ["--env", f"{variable['name']}={value}"]
        for mount in self.mounts(container):
            arguments += ["--mount", mount]
        target = container.get("terminationMessagePath", "/dev/termination-log")
        arguments += ["--mount", f"type=bind,source={message},target={target}"]
        command = container.get("command", [])
        if command:
            arguments += ["--entrypoint", command[0]]
        self.started.append((container, name))
        docker(*arguments, container["image"], *command[1:], *container.get("args", []))
        return name

    def start(self):
        """Init containers one by one, those that stay until their start-up probe holds; then all others."""
        for container in self.spec.get("initContainers", []):
            name = self.start_container(container)
            if container.get("restartPolicy") == "Always":
                self.started_up(container, name)
            elif (code := self.wait(name)) != 0:
                raise Failed(f"{name} ended with {code}: {self.log(container['name'])}")
        for container in self.spec["containers"]:
            name = self.start_container(container)
            self.started_up(container, name)
        return self

    def started_up(self, container, name):
        if "startupProbe" not in container:
            return

        def holds():
            if not self.running(name):
                raise Failed(f"{name} ended with {self.wait(name)}: {self.log(container['name'])}")
            return self.probe(container["name"], "startupProbe") == 200

        until(f"{name} to have started", holds)

    def container(self, name):
        return next((c, n) for c, n in self.started if c["name"] == name)

    def probe(self, name, kind):
        """The status code of an httpGet probe, None where nobody answers; the exit code of an exec probe."""
        container, name = self.container(name)
        if command := container[kind].get("exec", {}).get("command"):
            return subprocess.run(["docker", "exec", name, *command], capture_output=True).returncode
        get = container[kind]["httpGet"]
        port = next(p["containerPort"] for p in container["ports"] if p["name"] == get["port"])
        try:
            with urllib.request.urlopen(f"http://{self.address(name)}:{port}{get['path']}", timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def address(self, name):
        return docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)

    def running(self, name):
        return docker("inspect", "--format", "{{.State.Running}}", name) == "true"

    def wait(self, name):
        return int(docker("wait", name))

    def log(self, name):
        done = subprocess.run(["docker", "logs", self.container(name)[1]], capture_output=True, text=True)
        return done.stdout + done.stderr

    def message(self, name):
        return (self.place / f"termination-{name}").read_text()

    def finish(self, name):
        """Waits for a container that ends by itself."""
        docker_name = self.container(name)[1]
        until(f"{docker_name} to end", lambda: not self.running(docker_name), why=lambda: self.log(name))
        return self.wait(docker_name)

    def stop(self):
        """SIGTERM to the containers, after their preStop; then to those that stay, the last one first; SIGKILL when
        terminationGracePeriodSeconds are over. Gives each container's exit code."""
        begin = time.monotonic()
        deadline = begin + self.spec["terminationGracePeriodSeconds"]
        stays = [(c, n) for c, n in self.started if c.get("restartPolicy") == "Always"]
        ordinary = [(c, n) for c, n in self.started if c in self.spec["containers"]]
        pauses = {n: c.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for c, n in ordinary}
        told = set()
        while any(self.running(n) for _, n in ordinary) and time.monotonic() < deadline:
            for _, name in ordinary:
                if name not in told and time.monotonic() - begin >= pauses[name]:
                    docker("kill", "--signal", "TERM", name, check=False)
                    told.add(name)
            time.sleep(0.1)
        for _, name in reversed(stays):
            docker("kill", "--signal", "TERM", name, check=False)
            while self.running(name) and time.monotonic() < deadline:
                time.sleep(0.1)
        for _, name in ordinary + stays:
            docker("kill", name, check=False)
        took = time.monotonic() - begin
        say(f"{self.name}: stopped within {took:.1f} s of {self.spec['terminationGracePeriodSeconds']}")
        return {c["name"]: self.wait(n) for c, n in ordinary + stays}

    def remove(self):
        for _, name in self.started:
            docker("rm", "--force", "--volumes", name, check=False)


# --- what is expected -------------------------------------------------------------------------------------------------


def expect(holds, what):
    if not holds:
        raise Failed(what)


def files_below(root):
    for directory, _, files in os.walk(root):
        for file in files:
            path = pathlib.Path(directory) / file
            yield str(path.relative_to(root)), path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compare(manifest, upload, left):
    """All that pine wrote is on the far side, once, and nothing else; nothing of it is left behind."""
    wrote = collections.Counter()
    for line in manifest.read_text().splitlines():
        sha, path = line.split("  ", 1)
        wrote[sha, path.split("/", 1)[1]] += 1
    seen = collections.Counter()
    for name, path in files_below(upload):
        expect(not name.endswith(".part"), f"a temporary name is left: {name}")
        dated = re.fullmatch(r"20\d\d/\d\d/\d\d/(.*)", name)
        expect(dated, f"not in a dated folder: {name}")
        sha = digest(path)
        key = sha, dated[1]
        if key not in wrote:
            # Other bytes had the name already.
            key = sha, dated[1].replace(f".{sha[:8]}", "", 1)
        expect(key in wrote, f"other bytes than were written, or none of it: {name}")
        seen[key] += 1
    expect(all(seen[key] <= wrote[key] for key in seen), "something arrived twice")
    missing = [path for key in wrote if key not in seen for path in key[1:]]
    expect(not missing, f"lost: {missing}")
    behind = [n for directory in left for n, _ in files_below(directory) if ".archiver-canary-" not in n]
    expect(not behind, f"left behind: {behind}")
    say(f"{sum(wrote.values())} files written, each of them on the far side, once, byte for byte")


def told(pod, container="archiver"):
    """The termination message."""
    message = pod.message(container)
    try:
        return json.loads(message)
    except ValueError:
        raise Failed(f"{pod.name}: the termination message is no JSON: {message!r}") from None


def ended_well(pod, codes, container="archiver"):
    expect(all(code == 0 for code in codes.values()), f"{pod.name} ended with {codes}: {pod.log(container)}")
    expect(told(pod, container)["exit"] == 0, f"{pod.name}: the termination message says {told(pod, container)}")
    say(f"{pod.name}: exit codes {codes}, termination message {pod.message(container).strip()}")


def pod_spec(documents):
    return next(d["spec"]["template"]["spec"] for d in documents if d["kind"] == "StatefulSet")


def empty(directory):
    for entry in directory.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


# --- the shapes -------------------------------------------------------------------------------------------------------


class Run:
    def __init__(self, helm, cluster):
        self.helm = helm
        self.cluster = cluster
        self.server = None

    def render(self, chart, *settings, values=None, release="r", prefix=""):
        repository, _, tag = self.cluster.image.partition(":")
        settings = [*settings, f"{prefix}image.repository={repository}", f"{prefix}image.tag={tag or 'latest'}"]
        arguments = [self.helm, "template", release, chart, "--namespace", "ns"]
        if values:
            arguments += ["--values", "-"]
        for setting in settings:
            # Not `--set`, to which 0.5 is text.
            key, _, value = setting.partition("=")
            arguments += ["--set-json", f"{key}={json.dumps(yaml.safe_load(value))}"]
        done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, input=yaml.safe_dump(values))
        if done.returncode != 0:
            raise Failed(done.stderr)
        documents = [d for d in yaml.safe_load_all(done.stdout) if d]
        self.cluster.apply(documents)

    @property
    def upload(self):
        return self.cluster.claim("home-r-archiver-sftp-0") / "upload"

    def arrived(self):
        return [name for name, path in files_below(self.upload) if not path.name.startswith(".")]

    def archived(self, names):
        """The dated paths of these files, once all of them are there."""
        far = {re.sub(r"^20\d\d/\d\d/\d\d/", "", name): name for name in self.arrived()}
        return all(name in far for name in names)

    def demo(self):
        self.render(CHART, "shape=demo", "demo.pine.pause=0.5", "demo.pine.large=20")
        self.server = Pod(self.cluster, "StatefulSet", "r-archiver-sftp", aliases=["sftp"]).start()
        name = self.server.container("sftp")[1]

        def listens():
            if not self.server.running(name):
                raise Failed(f"the SFTP server ended: {self.server.log('sftp')}")
            try:
                socket.create_connection((self.server.address(name), 22), timeout=5).close()
            except OSError:
                return False
            return True

        until("the SFTP server", listens)
        pod = Pod(self.cluster, "Deployment", "r-archiver-pine").start()
        until("30 files of the demo", lambda: len(self.arrived()) >= 30, why=lambda: pod.log("archiver"))
        until("the demo to be ready", lambda: pod.probe("archiver", "readinessProbe") == 200)
        expect(pod.probe("archiver", "livenessProbe") == 200, "the archiver is not healthy")
        ended_well(pod, pod.stop())
        pine = pod.volumes["pine"]
        compare(pine / "manifest", self.upload, [pine / "reports", pine / "exports"])

    def helm_test(self):
        empty(self.upload)
        for attempt in ("first", "second"):
            pod = Pod(self.cluster, "Pod", "r-archiver-test").start()
            code = pod.finish("push")
            expect(code == 0, f"helm test, {attempt} time: ended with {code}: {pod.log('push')}")
        sent = self.cluster.data("ConfigMap", "r-archiver-test")["content"]
        [(name, path)] = files_below(self.upload)
        expect(re.fullmatch(r"helm-test/20\d\d/\d\d/\d\d/ns-r-1\.txt", name), f"helm test: sent as {name}")
        expect(path.read_bytes() == sent, "helm test: other bytes arrived")
        say(f"helm test: {name}, twice, the same bytes")
        # A server that has other bytes under the name makes it fail.
        path.write_bytes(b"not what was sent")
        pod = Pod(self.cluster, "Pod", "r-archiver-test").start()
        code = pod.finish("push")
        expect(code == 1, f"helm test with other bytes on the server: ended with {code}: {pod.log('push')}")

    # What the shapes below have in common: the demo's server and keys, and a claim that an application has filled.
    def values(self, shape, name, **more):
        claim = self.cluster.claim(f"{name}-files")
        own(claim, 4711, 4711, 0o2775)
        values = {
            "shape": shape,
            "fullnameOverride": name,
            "config": {"destination": {"url": "sftp://pine@r-archiver-sftp/upload"}},
            "secret": {"name": "r-archiver-keys"},
            "source": {"existingClaim": f"{name}-files"},
            "podSecurityContext": {"runAsUser": 4711, "runAsGroup": 4711, "fsGroup": 4711},
        }
        return values | more, claim

    def write(self, directory, name, text):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.chown(path, 4711, 4711)

    def deployment(self):
        empty(self.upload)
        values, claim = self.values("deployment", "alone")
        self.render(CHART, values=values)
        self.write(claim, "a.csv", "a,1\n")
        self.write(claim, "below/b.csv", "b,2\n")
        pod = Pod(self.cluster, "Deployment", "alone").start()
        until("two files", lambda: self.archived(["a.csv", "below/b.csv"]), why=lambda: pod.log("archiver"))
        self.write(claim, "c.csv", "c,3\n")
        until("a third file", lambda: self.archived(["c.csv"]), why=lambda: pod.log("archiver"))
        self.write(claim, "d.csv", "written right before the end\n")
        ended_well(pod, pod.stop())
        expect(self.archived(["d.csv"]), "what was written right before the end did not arrive")
        # The next pod has the ledger of the one before.
        pod = Pod(self.cluster, "Deployment", "alone").start()
        self.write(claim, "e.csv", "e,5\n")
        until("a file for the second pod", lambda: self.archived(["e.csv"]), why=lambda: pod.log("archiver"))
        ended_well(pod, pod.stop())
        expect(len(self.arrived()) == 5, f"archived twice: {self.arrived()}")
        for name, path in files_below(self.upload):
            kept = claim / re.sub(r"^20\d\d/\d\d/\d\d/", "", name)
            expect(path.read_bytes() == kept.read_bytes(), f"{name} has other bytes")
        say("deployment: five files from two pods with one ledger, each once")

    def redis(self, *arguments, **data):
        """helm/examples/redis.yaml, as it is but for further arguments and keys of its Secret."""
        documents = list(yaml.safe_load_all(REDIS.read_text()))
        [container] = pod_spec(documents)["containers"]
        container["args"] += arguments
        self.cluster.apply(documents)
        password = secrets.token_hex(32).encode()
        self.cluster.secret("archiver-redis", password=password, **{"redis.conf": b"requirepass " + password}, **data)
        pod = Pod(self.cluster, "StatefulSet", "archiver-redis").start()
        expect(password.decode() not in docker("inspect", pod.container("redis")[1]), "the password of Redis can be seen")
        return pod

    def replicas(self):
        empty(self.upload)
        server = self.redis()
        until("Redis", lambda: server.probe("redis", "readinessProbe") == 0, why=lambda: server.log("redis"))
        values, claim = self.values("deployment", "many", deployment={"replicas": 3})
        values["source"]["shared"] = True
        values["ledger"] = {"secret": "archiver-redis", "password": "password"}
        values["config"] |= {
            "source": [{"name": "data", "paths": ["/data"], "after": "delete"}],
            "ledger": {"url": "redis://archiver-redis/0", "lease": "5s"},
            "watch": {"scan-interval": "5s"},
            "pool": {"limit-rate": "8MiB"},
        }
        self.render(CHART, values=values)
        manifest = self.cluster.work / "manifest"
        written = 0

        def write(size, count):
            nonlocal written
            for _ in range(count):
                written += 1
                content = secrets.token_bytes(size)
                with manifest.open("a") as file:
                    file.write(f"{hashlib.sha256(content).hexdigest()}  data/{written}.bin\n")
                (claim / ".new").write_bytes(content)
                os.chown(claim / ".new", 4711, 4711)
                (claim / ".new").rename(claim / f"{written}.bin")

        write(1000, 40)
        count = self.cluster.objects["Deployment", "many"]["spec"]["replicas"]
        pods = [Pod(self.cluster, "Deployment", "many").start() for _ in range(count)]
        until("40 files", lambda: len(self.arrived()) >= 40, why=lambda: pods[0].log("archiver"))
        for pod in pods:
            until(f"{pod.name} to be ready", lambda: pod.probe("archiver", "readinessProbe") == 200)
        write(24 << 20, 6)

        def holder():
            """The pod that is in the middle of a large file."""
            if not any(p.name.endswith(".part") and p.stat().st_size > 1 << 20 for _, p in files_below(self.upload)):
                return None
            said = docker("exec", pods[0].container("archiver")[1], "archiver", "status", "--format", "json")
            busy = [h["hostname"] for h in json.loads(said)["holders"] if h["bytes"] >= 24 << 20]
            return next((pod for pod in pods if pod.name in busy), None)

        killed = until("a pod with a large file", holder)
        docker("kill", "--signal", "KILL", killed.container("archiver")[1])
        write(1000, 40)
        until("the others to archive all of it", lambda: len(self.arrived()) >= written, why=lambda: pods[1].log("archiver"))
        say(f"{killed.name}: killed in the middle of a large file, which another one archived")
        # The kubelet starts the container again, in the same pod.
        docker("start", killed.container("archiver")[1])
        until("it to be ready", lambda: killed.probe("archiver", "readinessProbe") == 200)
        write(1000, 40)
        with concurrent.futures.ThreadPoolExecutor() as threads:
            ends = list(threads.map(Pod.stop, pods))
        for pod, codes in zip(pods, ends, strict=True):
            ended_well(pod, codes)
        compare(manifest, self.upload, [claim])
        say("; ".join(f"{pod.name} archived {told(pod)['totals']['archived']}" for pod in pods))
        test = Pod(self.cluster, "Pod", "many-test").start()
        code = test.finish("push")
        expect(code == 0, f"helm test beside a ledger in Redis: ended with {code}: {test.log('push')}")
        server.remove()

    def replicas_tls(self):
        """The ledger over TLS, with a certificate that only ledger.ca vouches for."""
        empty(self.upload)
        names = ("ca.crt", "tls.key", "tls.crt")
        authority, key, certificate = (self.cluster.work / name for name in names)
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
        signing = ["-keyout", f"{authority}.key", "-out", authority]
        subprocess.run([*new, "-subj", "/CN=authority", *signing], check=True, capture_output=True)
        signed = ["-CA", authority, "-CAkey", f"{authority}.key", "-keyout", key, "-out", certificate]
        signed += ["-addext", "subjectAltName=DNS:archiver-redis", "-addext", "basicConstraints=critical,CA:FALSE"]
        subprocess.run([*new, "-subj", "/CN=archiver-redis", *signed], check=True, capture_output=True)
        files = {path.name: path.read_bytes() for path in (authority, key, certificate)}
        place = "/run/secrets/redis"
        tls = ["--port", "0", "--tls-port", "6379", "--tls-auth-clients", "no"]
        tls += ["--tls-cert-file", f"{place}/tls.crt", "--tls-key-file", f"{place}/tls.key"]
        server = self.redis(*tls, **files)
        values, claim = self.values("deployment", "secured")
        values["ledger"] = {"secret": "archiver-redis", "password": "password", "ca": "ca.crt"}
        values["config"]["ledger"] = {"url": "rediss://archiver-redis/0"}
        self.render(CHART, values=values)
        self.write(claim, "a.csv", "a,1\n")
        pod = Pod(self.cluster, "Deployment", "secured").start()
        until("a file", lambda: self.archived(["a.csv"]), why=lambda: pod.log("archiver"))
        ended_well(pod, pod.stop())
        server.remove()

    def cronjob(self):
        empty(self.upload)
        values, claim = self.values("cronjob", "clock")
        values["source"]["readOnly"] = True
        self.render(CHART, values=values)
        self.write(claim, "a.csv", "a,1\n")
        for expected in (["a.csv"], ["a.csv", "b.csv"]):
            pod = Pod(self.cluster, "CronJob", "clock").start()
            code = pod.finish("archiver")
            expect(code == 0, f"cronjob: ended with {code}: {pod.log('archiver')}")
            expect(self.archived(expected) and len(self.arrived()) == len(expected), f"cronjob: {self.arrived()}")
            self.write(claim, "b.csv", "b,2\n")
        say(f"cronjob: two runs, {len(self.arrived())} files, each once, from a claim that is read-only")

    def example(self, variant):
        empty(self.upload)
        client = self.cluster.data("Secret", "r-archiver-keys")
        known = b"sftp " + client["known_hosts"].split(b" ", 1)[1]
        self.cluster.secret("archiver-sftp", id_ed25519=client["id_ed25519"], known_hosts=known)
        chart = self.cluster.work / "charts" / variant
        shutil.copytree(EXAMPLE, chart, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
        (chart / "charts").mkdir()
        subprocess.run([self.helm, "package", CHART, "--destination", chart / "charts"], check=True, capture_output=True)
        settings = [f"sidecar={variant}", "pause=0.5", "large=20"]
        self.render(chart, *settings, release=variant, prefix="archiver.")
        pod = Pod(self.cluster, "StatefulSet", f"{variant}-pine").start()
        until("30 files of the example", lambda: len(self.arrived()) >= 30, why=lambda: pod.log("archiver"))
        ended_well(pod, pod.stop())
        data = pod.volumes["data"]
        compare(data / "manifest", self.upload, [data / "reports", data / "exports"])

    def refused(self):
        """What goes wrong most often: it ends with the code and a sentence that docs/kubernetes.md speaks of."""
        cases = [
            ("unwritable", {"podSecurityContext": {"fsGroup": None}}, "/var/lib/archiver", 2),
            ("stranger", {"config": {"destination": {"url": "sftp://nobody@r-archiver-sftp/upload"}}}, "logging in", 3),
            ("misspelt", {"config": {"destination": {"url": "sftp://pine@r-archiver-sftp/upload", "indentity": "x"}}},
             "identity", 2),
        ]  # fmt: skip
        for name, change, sentence, code in cases:
            values, _ = self.values("cronjob", name)
            if "podSecurityContext" in change:
                # Without a group the Secret is for root alone, too; here it is the volume that is meant.
                values["podSecurityContext"] |= change["podSecurityContext"]
                values["extraVolumes"] = [{"name": "open", "secret": {"secretName": "r-archiver-keys", "defaultMode": 0o444}}]
                values["extraVolumeMounts"] = [{"name": "open", "mountPath": "/run/secrets/archiver"}]
                values["secret"] = {"name": "", "identity": "", "knownHosts": "known_hosts"}
                secrets = "/run/secrets/archiver"
                values["config"]["destination"] |= {
                    "identity": f"{secrets}/id_ed25519",
                    "known-hosts": f"{secrets}/known_hosts",
                }
            else:
                values |= change
            self.ends(name, values, sentence, code)
        # A Secret that the pod's user cannot read.
        values, _ = self.values("cronjob", "unreadable")
        values["podSecurityContext"]["fsGroup"] = None
        values["state"] = {"existingClaim": "unreadable-state"}
        own(self.cluster.claim("unreadable-state"), 4711, 4711, 0o755)
        self.ends("unreadable", values, "Permission denied", 3)
        # A key that the Secret does not have: the kubelet says so, and starts nothing.
        values, _ = self.values("cronjob", "incomplete")
        values["secret"] = {"name": "r-archiver-keys", "identity": "id_rsa"}
        self.render(CHART, values=values)
        try:
            Pod(self.cluster, "CronJob", "incomplete")
        except Failed as error:
            expect("non-existent key: id_rsa" in str(error), str(error))
        else:
            raise Failed("a Secret without the key is mounted")

    def ends(self, name, values, sentence, code):
        self.render(CHART, values=values)
        claim = self.cluster.claim(f"{name}-files")
        self.write(claim, "a.csv", "a,1\n")
        pod = Pod(self.cluster, "CronJob", name).start()
        ended = pod.finish("archiver")
        log = pod.log("archiver")
        expect(ended == code, f"{name}: ended with {ended}, not {code}: {log}")
        expect(sentence in log, f"{name}: no “{sentence}” in: {log}")
        expect(told(pod)["exit"] == code, f"{name}: the termination message says {told(pod)}")
        expect((claim / "a.csv").exists(), f"{name}: the file is gone")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        say(f"{name}: exit code {ended}: {' · '.join(lines)[:600]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--helm", required=True)
    parser.add_argument("--image", required=True)
    given = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("run this as root: volumes belong to many users")
    os.umask(0o022)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="archiver-helm-") as directory:
        os.chmod(directory, 0o755)
        cluster = Cluster(pathlib.Path(directory), given.image)
        run = Run(given.helm, cluster)
        steps = [
            ("demo: pine, the archiver beside it, the SFTP server", run.demo),
            ("helm test", run.helm_test),
            ("deployment", run.deployment),
            ("three replicas and Redis, one of them killed", run.replicas),
            ("Redis over TLS", run.replicas_tls),
            ("cronjob", run.cronjob),
            ("helm/examples/pine, native sidecar", lambda: run.example("native")),
            ("helm/examples/pine, classic sidecar", lambda: run.example("classic")),
            ("what is wrong is told", run.refused),
        ]
        try:
            for title, step in steps:
                print(title, file=sys.stderr, flush=True)
                step()
        except Failed as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        finally:
            cluster.end()
    print(f"all of it as it should be, in {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
