"""What all tests share: a clock that only the test advances, the event loops, and each kind of backend."""

import gc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from starsessions import SessionBackend
from tests.kinds import BACKENDS, IN_STORE, ON_SERVER, site_by
from tests.site import Clock, Site

pytest_plugins = ["tests.servers.fixtures"]

# On a machine that does other work, too, a slow moment must not fail a good test: no deadline for an example.
settings.register_profile("starsessions", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("starsessions")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--wide", action="store_true", help="run the tests marked `wide`, and no others")
    parser.addoption("--at-once", action="store_true", help="print each failure when it happens, and again at the end")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--at-once"):
        config.pluginmanager.register(FailuresAtOnce(config))


ON_TRIO = {"signed", "memory"}
"""On trio, one backend of each kind: the others share their code with these, or do not wait for anything."""


def is_wide(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if parameters.get("anyio_backend") == "trio":
        kinds = {parameters.get(name) for name in ("backend", "server_backend", "store_backend", "listing")}
        if kinds - {None} - ON_TRIO:
            return True
    return item.get_closest_marker("wide") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        chosen[is_wide(item) == config.getoption("--wide")].append(item)
    items[:] = chosen[True]
    if chosen[False]:
        config.hook.pytest_deselected(items=chosen[False])


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what lives as long as the run: that took a quarter of the time."""
    gc.collect()
    gc.freeze()


class FailuresAtOnce:
    """Print a failure at once, so that a long run can be watched."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            writer = self._config.get_terminal_writer()
            writer.line()
            writer.sep("_", f"{report.nodeid} ({report.when})", red=True)
            report.toterminal(writer)
            writer.flush()


@pytest.fixture
def anyio_backend() -> str:
    """The event loop: asyncio. What depends on the loop is marked `both_loops` and runs on trio, too."""
    return "asyncio"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyio_backend" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_loops"):
        metafunc.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, clock: Clock) -> SessionBackend:
    return BACKENDS[request.param](clock)


@pytest.fixture(params=list(ON_SERVER))
def server_backend(request: pytest.FixtureRequest, clock: Clock) -> SessionBackend:
    """The kinds of backend that can end a session for good."""
    return BACKENDS[request.param](clock)


@pytest.fixture(params=list(IN_STORE))
def store_backend(request: pytest.FixtureRequest, clock: Clock) -> SessionBackend:
    """The kinds of backend that can also keep an old id usable for a while."""
    return BACKENDS[request.param](clock)


@pytest.fixture
def site_of(clock: Clock) -> Callable[..., Site]:
    """Makes a site by the test's clock; a signed cookie and autoload unless something else is said."""
    return site_by(clock)
