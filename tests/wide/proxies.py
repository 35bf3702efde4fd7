"""Four proxies in front of the application, each with its defaults and with the lines that the guide recommends."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.servers.process import Server, free_port, new_folder
from tests.wide.programs import WIDE, accepts, unpacked

Start = Callable[[Path, int, int, str], list[str]]
"""Write the configuration into the folder, and return the command: `start(folder, port, application's port, lines)`."""


class Proxy(Server):
    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        return accepts(self.port)


def nginx(folder: Path, port: int, application: int, lines: str) -> list[str]:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "\n".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    file = folder / "nginx.conf"
    file.write_text(f"""
        daemon off; master_process off; pid {folder / "pid"}; error_log {folder / "log"};
        events {{ }}
        http {{
            access_log off;
            {places}
            server {{
                listen 127.0.0.1:{port};
                {lines}
                location / {{
                    proxy_pass http://127.0.0.1:{application};
                    proxy_set_header Host $host;
                }}
            }}
        }}
    """)
    return [*unpacked("usr/sbin/nginx"), "-e", str(folder / "log"), "-c", str(file)]


def haproxy(folder: Path, port: int, application: int, lines: str) -> list[str]:
    file = folder / "haproxy.cfg"
    file.write_text(f"""
global
    {lines}
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen front
    bind 127.0.0.1:{port}
    server application 127.0.0.1:{application}
""")
    return [*unpacked("usr/sbin/haproxy"), "-db", "-f", str(file)]


def apache(folder: Path, port: int, application: int, lines: str) -> list[str]:
    modules = WIDE / "usr/lib/apache2/modules"
    names = ("mpm_event", "authz_core", "proxy", "proxy_http")
    load = "\n".join(f"LoadModule {name}_module {modules / f'mod_{name}.so'}" for name in names)
    file = folder / "apache.conf"
    file.write_text(f"""
{load}
ServerRoot {folder}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder / "pid"}
ErrorLog {folder / "log"}
User daemon
Group daemon
{lines}
ProxyPass / http://127.0.0.1:{application}/
""")
    return [*unpacked("usr/sbin/apache2"), "-D", "FOREGROUND", "-f", str(file)]


def varnish(folder: Path, port: int, application: int, lines: str) -> list[str]:
    file = folder / "default.vcl"
    file.write_text(f'vcl 4.1; backend default {{ .host = "127.0.0.1"; .port = "{application}"; }}')
    compiler = shutil.which("gcc") or shutil.which("cc")
    options = ["-F", "-a", f"127.0.0.1:{port}", "-n", str(folder / "work"), "-s", "malloc,32m", "-f", str(file)]
    options += ["-j", "none", "-p", f"cc_command=exec {compiler} -g -O2 -fpic -shared -o %o %s"]
    return [*unpacked("usr/sbin/vinyld"), *options, *lines.split()]


PROXIES: dict[str, Start] = {"nginx": nginx, "HAProxy": haproxy, "Apache": apache, "Varnish": varnish}


@contextlib.contextmanager
def behind(name: str, application: int, lines: str = "") -> Iterator[Proxy]:
    """Start a proxy in front of the application's port, with these lines in its configuration."""
    folder, port = new_folder(), free_port()
    with Proxy(name, PROXIES[name](folder, port, application, lines), folder, port, user=None) as proxy:
        proxy.start()
        yield proxy
