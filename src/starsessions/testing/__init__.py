"""For tests: a clock that is moved by hand, the session of a test client, and the proof that a store or a backend keeps
what it promises.

clock.py      `Clock`
client.py     `session_of`: the session of a test client, to be read and written
rules.py      `STORE`: the contract of a store as rules, each a coroutine with its sentence
suite.py      `StoreSuite`: the rules as pytest tests, for the author of a store
"""

from starsessions.testing.client import SessionOf, session_of
from starsessions.testing.clock import Clock
from starsessions.testing.contract import Contract
from starsessions.testing.place import OpenStore, StorePlace

__all__ = ["Clock", "Contract", "OpenStore", "SessionOf", "StorePlace", "session_of"]
