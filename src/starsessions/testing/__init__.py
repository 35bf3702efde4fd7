"""For tests: a clock that is moved by hand, the session of a test client, and the proof that a store or a backend keeps
what it promises.

| module      | what is there for you                                                                |
|-------------|--------------------------------------------------------------------------------------|
| `clock`     | `Clock`                                                                              |
| `client`    | `session_of`: the session of a test client, to be read and written; `sign_in`        |
| `suite`     | `StoreSuite` and `BackendSuite`, to be subclassed: every rule as a test of pytest    |
| `model`     | `check_against_model`: Hypothesis looks for requests after which a browser sees what |
|             | it must not                                                                          |
| `rules`     | `STORE`: the contract of a store, as rules                                           |
| `races`     | `BACKEND`: what users are promised of any backend, as rules                          |
| `schedules` | `in_every_order`: a few tasks in every order of their steps                          |
| `site`      | `Site`: an application of one handler, visited without a server                      |
"""

from starsessions.testing.client import SessionOf, session_of, sign_in
from starsessions.testing.clock import Clock
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import OpenBackend, OpenStore, StoreFixture

__all__ = ["Clock", "Contract", "OpenBackend", "OpenStore", "SessionOf", "StoreFixture", "session_of", "sign_in"]
