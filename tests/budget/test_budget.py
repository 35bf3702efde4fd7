"""What a request costs, counted and not timed: a regression shows on a busy machine as well as on an idle one.

Counted are the calls of our own functions, and the bytecode instructions that they run, C code left out. A number that
has grown is to be explained, or repaired. One that has shrunk is to be written down here, so that it stays.

What it costs in microseconds, and beside Starlette's own middleware, says `benchmarks/overhead.py`.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest

import starsessions
from starsessions import EncryptedCookieBackend, InMemoryBackend, Session, SessionMiddleware
from tests.site import by_the_clock

KEY = "0123456789abcdef0123456789ABCDEF"
OURS = str(Path(starsessions.__file__).parent)
DATA = {"user_id": 42, "cart": [{"sku": "abc", "n": 1}], "visits": 3, "theme": "dark"}
BROWSER = [(b"host", b"example.com"), (b"user-agent", b"Mozilla/5.0"), (b"accept", b"text/html")]

MARGIN = 0.03
"""What later versions of Python may differ in, which compile the same function to other instructions."""

FROM_3_14 = 1.06
"""Python 3.14 compiles the same functions to more instructions than 3.12 and 3.13, and so does 3.15."""

Handler = Callable[[Session], None]


class Cost(NamedTuple):
    calls: int
    instructions: int


def untouched(session: Session) -> None:
    pass


def read(session: Session) -> None:
    session.mark_accessed()  # as Starlette's request.session does
    assert session["user_id"] == 42


def write(session: Session) -> None:
    session.mark_accessed()
    session["visits"] = session["visits"] + 1


def fill(session: Session) -> None:
    session.mark_accessed()
    session.update(DATA)


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


def request(middleware: SessionMiddleware, handler: Handler, cookie: bytes) -> list[Any]:
    """One request, driven by hand to its end: there is nothing to wait for. What was sent."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        handler(scope["session"])
        headers = [(b"content-length", b"2"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    async def send(message: Any) -> None:
        sent.append(message)

    middleware.app = app
    headers = [*BROWSER, (b"cookie", b"theme=dark; " + cookie)]
    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "scheme": "https", "headers": headers}
    with pytest.raises(StopIteration):
        middleware(scope, None, send).send(None)  # type: ignore[arg-type]
    return sent


def counted(work: Callable[[], object]) -> Cost:
    """The calls and instructions of our own code. Comprehensions are no calls, though Python 3.11 makes them some.

    The garbage collector waits: what it frees may be of another test, and may call our code.
    """
    calls: list[CodeType] = []
    instructions: list[CodeType] = []
    gc.collect()
    gc.disable()
    try:
        with _told(calls.append, instructions.append):
            work()
    finally:
        gc.enable()
    ours = [code.co_name for code in calls if code.co_filename.startswith(OURS)]
    return Cost(
        sum(name != "<listcomp>" for name in ours),
        sum(code.co_filename.startswith(OURS) for code in instructions),
    )


@contextmanager
def _told(call: Callable[[CodeType], object], instruction: Callable[[CodeType], object]) -> Iterator[None]:
    """Be told of each call of a Python function, and of each of its instructions."""
    if sys.version_info >= (3, 12):
        monitoring, tool = sys.monitoring, 4  # none of those that are reserved for debuggers, coverage and profilers
        events = monitoring.events
        monitoring.use_tool_id(tool, "budget")
        monitoring.register_callback(tool, events.PY_START, lambda code, offset: call(code) and None)
        monitoring.register_callback(tool, events.INSTRUCTION, lambda code, offset: instruction(code) and None)
        monitoring.set_events(tool, events.PY_START | events.INSTRUCTION)
        try:
            yield
        finally:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)
    else:

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "opcode":
                instruction(frame.f_code)
            elif event == "call":
                call(frame.f_code)
                frame.f_trace_opcodes = True
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


BACKENDS: dict[str, Callable[[], Any]] = {
    "signed": lambda: {"secret_key": KEY},
    "encrypted": lambda: {"backend": EncryptedCookieBackend(KEY)},
    "memory": lambda: {"backend": InMemoryBackend()},
}

# On Python 3.11, and from 3.12 on.
BUDGET: dict[tuple[str, Handler], tuple[Cost, Cost]] = {
    ("signed", untouched): (Cost(3, 147), Cost(3, 141)),
    ("signed", read): (Cost(19, 805), Cost(19, 755)),
    ("signed", write): (Cost(39, 1542), Cost(39, 1423)),
    ("encrypted", read): (Cost(21, 800), Cost(21, 758)),
    ("encrypted", write): (Cost(41, 1487), Cost(41, 1378)),
    ("memory", read): (Cost(22, 812), Cost(22, 767)),
    ("memory", write): (Cost(47, 1739), Cost(47, 1608)),
}


@pytest.mark.parametrize(("backend", "handler"), BUDGET, ids=lambda one: getattr(one, "__name__", one))
def test_a_request_costs_what_it_has_cost(backend: str, handler: Handler) -> None:
    middleware = SessionMiddleware(no_app, autoload=True, **by_the_clock(lambda: 1_800_000_000, **BACKENDS[backend]()))
    cookie = dict(request(middleware, fill, b"")[0]["headers"])[b"set-cookie"].partition(b";")[0]
    for _ in range(3):  # what is prepared once, is
        request(middleware, handler, cookie)

    cost = counted(lambda: request(middleware, handler, cookie))

    before_3_12, since = BUDGET[backend, handler]
    budget = since if sys.version_info >= (3, 12) else before_3_12
    instructions = budget.instructions * (FROM_3_14 if sys.version_info >= (3, 14) else 1)
    assert list(cost) == pytest.approx([budget.calls, instructions], rel=MARGIN)
