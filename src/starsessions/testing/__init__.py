"""Tools for tests: a clock that the test sets, the session of a test client, and test suites for stores and backends.

| name                                         | what it is                                                          |
|----------------------------------------------|---------------------------------------------------------------------|
| `Clock`                                      | a clock (seconds since 1970) that only the test advances            |
| `session_of`, `sign_in`                      | the session of a test client                                        |
| `StoreSuite`                                 | each rule of the store contract as a pytest test: subclass it       |
| `BackendSuite`, `CookieBackendSuite`         | the same for server-side backends, and for cookie backends          |
| `check_against_model`                        | a Hypothesis search for requests that a backend handles incorrectly |
| `store_verdicts`                             | the rules of a store without pytest; on the command line:           |
|                                              | `python -m starsessions.testing package.module:open_store`          |
| `broken_stores`, `RulesSuite`                | stores that the rules must reject, and a test that they do          |

`pytest` and `hypothesis` are imported only if you use a suite or `check_against_model`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from starsessions.testing.client import SessionOf, session_of, sign_in
from starsessions.testing.clock import Clock
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import OpenBackend, OpenStore, StoreFixture

if TYPE_CHECKING:
    from starsessions.testing.conformance.broken_stores import BrokenStore, broken_stores
    from starsessions.testing.conformance.model import check_against_model
    from starsessions.testing.conformance.suite import BackendSuite, CookieBackendSuite, RulesSuite, StoreSuite
    from starsessions.testing.conformance.verdict import NoVerdict, Verdict, store_verdicts

__all__ = [
    "BackendSuite",
    "BrokenStore",
    "Clock",
    "Contract",
    "CookieBackendSuite",
    "NoVerdict",
    "OpenBackend",
    "OpenStore",
    "RulesSuite",
    "SessionOf",
    "StoreFixture",
    "StoreSuite",
    "Verdict",
    "broken_stores",
    "check_against_model",
    "session_of",
    "sign_in",
    "store_verdicts",
]

_LATER = {
    **dict.fromkeys(("BrokenStore", "broken_stores"), "broken_stores"),
    **dict.fromkeys(("check_against_model",), "model"),
    **dict.fromkeys(("BackendSuite", "CookieBackendSuite", "RulesSuite", "StoreSuite"), "suite"),
    **dict.fromkeys(("NoVerdict", "Verdict", "store_verdicts"), "verdict"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.conformance.{_LATER[name]}"), name)
