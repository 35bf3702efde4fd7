"""The recipes in examples/deploy, each by its own tool and, where a machine without containers can, by running it."""

import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

import starsessions
from tests.servers import postgres, redis
from tests.servers.process import Server, free_port, new_folder
from tests.servers.redis import RedisServer
from tests.wide.programs import accepts, self_signed, unpacked

pytestmark = pytest.mark.wide

RECIPES = Path(__file__).parents[2] / "examples" / "deploy"
KEY = "a key for the recipes, of 32 bytes or more"


def environment(**variables: str) -> dict[str, str]:
    paths = os.pathsep.join([str(Path(starsessions.__file__).parents[1]), str(RECIPES)])
    return {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "SESSION_KEY": KEY, **variables}


def run(*command: str | Path, **variables: str) -> str:
    """Run a tool, and return what it says, if all is well."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=RECIPES, env=environment(**variables), text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def documents(name: str) -> list[Any]:
    import yaml  # only the environment of the wide tests has it

    return list(yaml.safe_load_all((RECIPES / name).read_text()))


# By their tools


@pytest.mark.parametrize("file", sorted(RECIPES.glob("compose.*.yaml")), ids=lambda file: file.name)
def test_a_compose_file_keeps_to_the_specification(file: Path) -> None:
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("compose.*.yaml")), ids=lambda file: file.name)
def test_a_compose_file_names_what_it_has(file: Path) -> None:
    [compose] = documents(file.name)
    for service in compose["services"].values():
        assert {*service.get("depends_on", ())} <= {*compose["services"]}
        assert {*service["networks"]} <= {*compose["networks"]}
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in {*compose["volumes"], "./nginx.conf", "./tls"}
    assert compose["services"]["app"].get("ports") is None, "only the proxy can be reached"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("kubernetes/*.yaml")), ids=lambda file: file.name)
def test_a_manifest_keeps_to_the_schemas_of_kubernetes(file: Path) -> None:
    run(Path(sys.executable).with_name("kubernetes-validate"), "--strict", file)


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in RECIPES.glob("systemd/*"):
        text = unit.read_text().replace("/opt/app/.venv/bin/python", sys.executable)
        (tmp_path / unit.name).write_text(text.replace("app.service", "application.service"))
    units = sorted(tmp_path.iterdir())
    assert run(analyze, "verify", *units) == ""
    (units[0]).write_text(units[0].read_text().replace("ProtectHome", "ProtectHoem"))
    with pytest.raises(AssertionError, match="ProtectHoem"):
        assert run(analyze, "verify", *units) == ""


# By running them


class Uvicorn(Server):
    """The application as the Dockerfile starts it, and on this machine only."""

    def __init__(self, sessions: str) -> None:
        port = free_port()
        [words] = re.findall(r'^CMD \["python", (.+)\]$', (RECIPES / "Dockerfile").read_text(), re.MULTILINE)
        command = [sys.executable, *words.replace('"', "").split(", ")]
        command[command.index("0.0.0.0")] = "127.0.0.1"
        variables = environment(SESSIONS=sessions)
        settings = [f"{name}={variables[name]}" for name in ("PYTHONPATH", "SESSIONS", "SESSION_KEY")]
        super().__init__("uvicorn", ["env", *settings, *command, "--port", str(port)], new_folder(), port, user=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        with httpx2.Client(trust_env=False) as client:
            return client.get(f"{self.url}/healthz").status_code == 200


class Nginx(Server):
    """The nginx of the recipe, with other ports and folders."""

    def __init__(self, application: int) -> None:
        folder, port, self.plain = new_folder(), free_port(), free_port()
        key, certificate = self_signed(folder)
        self.certificate = certificate
        text = (RECIPES / "nginx.conf").read_text()
        places = "".join(
            f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        for ours, theirs in (
            ("events {}", f"daemon off; master_process off; pid {folder / 'pid'}; events {{}}"),
            ("access_log off;", f"access_log off; {places}"),
            ("listen 80;", f"listen 127.0.0.1:{self.plain};"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
            ("https://$host$", f"https://$host:{port}$"),
            ("/etc/nginx/tls/tls.crt", str(certificate)),
            ("/etc/nginx/tls/tls.key", str(key)),
            ("http://app:8000", f"http://127.0.0.1:{application}"),
        ):
            assert text.count(ours) == 1, ours
            text = text.replace(ours, theirs)
        (folder / "nginx.conf").write_text(text)
        command = [*unpacked("usr/sbin/nginx"), "-e", str(folder / "log"), "-c", str(folder / "nginx.conf")]
        run(*command, "-t")
        super().__init__("nginx", command, folder, port, user=None)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        return accepts(self.port)


@contextmanager
def deployed(sessions: str) -> Iterator[tuple[httpx2.Client, Nginx]]:
    """A browser that visits the application by https and nginx."""
    with ExitStack() as stack:
        application = stack.enter_context(Uvicorn(sessions))
        application.start()
        proxy = stack.enter_context(Nginx(application.port))
        proxy.start()
        trusted = ssl.create_default_context(cafile=str(proxy.certificate))
        yield stack.enter_context(httpx2.Client(base_url=proxy.url, verify=trusted, trust_env=False)), proxy


def visits(browser: httpx2.Client, origin: str) -> None:
    """A session is kept, is of https, and its user is signed in by a form of the same site only."""
    for n in (1, 2):
        assert browser.get("/").json() == {"visits": n, "user": None, "scheme": "https"}
    [cookie] = browser.cookies.jar
    assert cookie.name == "__Host-session"
    assert cookie.secure
    assert browser.post("/login?user=ann", headers={"origin": "https://evil.example.com"}).status_code == 403
    assert browser.post("/login?user=ann", headers={"origin": origin}).json() == {"user": "ann"}
    assert browser.get("/").json() == {"visits": 3, "user": "ann", "scheme": "https"}


def test_the_application_runs_on_postgresql_behind_nginx_and_its_migrations_go_back_and_forth() -> None:
    with postgres.server() as server:
        sessions = server.address.over("asyncpg")

        def alembic(*words: str) -> str:
            return run(sys.executable, "-m", "alembic", *words, SESSIONS=sessions)

        alembic("upgrade", "head")
        assert "No new upgrade operations detected" in alembic("check")
        alembic("downgrade", "base")
        with server.client() as client:
            assert client.execute("SELECT to_regclass('starsessions')").fetchone() == (None,)
            alembic("upgrade", "head")
            with deployed(sessions) as (browser, proxy):
                visits(browser, proxy.url)
                with httpx2.Client(trust_env=False) as plain:
                    there = plain.get(f"http://127.0.0.1:{proxy.plain}/login?user=ann")
                assert (there.status_code, there.headers["location"]) == (308, f"{proxy.url}/login?user=ann")
            client.execute("INSERT INTO starsessions SELECT n::text, '', n, n FROM generate_series(1, 2500) AS n")
            assert run(sys.executable, "sweep.py", SESSIONS=sessions) == "2500 expired sessions were removed.\n"
            alive = client.execute("SELECT count(*) FROM starsessions WHERE expires_at > 1000000").fetchone()
            assert alive is not None
            assert alive[0] >= 1


def test_nodes_with_the_arguments_of_the_manifest_become_a_cluster_and_the_application_runs_on_it() -> None:
    manifest = {one["kind"]: one for one in documents("kubernetes/redis-cluster.yaml")}
    [node] = manifest["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    arguments = [
        one.replace("$(POD).redis", "localhost").replace("$(ADDRESS)", "127.0.0.1") for one in node["args"][1:]
    ]
    [create] = manifest["Job"]["spec"]["template"]["spec"]["containers"]
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(RedisServer(f"node {n}", redis.free_port(redis.BUS), {}, *arguments)) for n in range(6)
        ]
        for one in nodes:
            one.start()
        [script] = create["args"]
        for n, one in enumerate(nodes):
            script = script.replace(f"redis-{n}.redis:6379", f"127.0.0.1:{one.port}")
        script = script.replace("-h redis-0.redis", f"-p {nodes[0].port}")
        for _ in range(2):  # a job may run again
            run("sh", "-ec", script)
            nodes[0].wait_until(lambda: all(one.serves_cluster() for one in nodes), "are no Cluster")
        assert {one.ask("CONFIG", "GET", "maxmemory-policy")["maxmemory-policy"] for one in nodes} == {"noeviction"}
        for primary in (one for one in nodes if one.role() == "master"):
            primary.wait_until(lambda one=primary: one.ask("ROLE")[2] != [], "has no replica")
        with deployed(f"redis+cluster://localhost:{nodes[0].port}") as (browser, proxy):
            visits(browser, proxy.url)
