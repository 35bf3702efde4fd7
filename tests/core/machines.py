"""What the tests of the machine start from: rules, sessions that were found, and machines that have loaded them."""

from typing import Any

from starsessions.core.record import Found, MissReason, Policy, Record
from starsessions.core.serializer import Msgpack, Serializer, differs_for_sure, is_builtin, matcher, patcher
from starsessions.core.snapshot import snapshot
from starsessions.core.state import Rules, SessionState

NOW = 1_000_000

MSGPACK = Msgpack()
FOREVER = Policy(max_age=10**6)


def rules(
    policy: Policy = FOREVER,
    *,
    serializer: Serializer = MSGPACK,
    is_client_side: bool = False,
    raises_on_conflict: bool = False,
    max_size: int | None = None,
    sends_ids: bool = False,
) -> Rules:
    """The rules as `lifecycle/config.py` prepares them."""
    return Rules(
        policy=policy,
        is_client_side=is_client_side,
        sends_ids=sends_ids,
        max_size=max_size,
        raises_on_conflict=raises_on_conflict,
        keeps_going=policy.rolling or policy.rotate_every is not None,
        loads=serializer.loads,
        dumps=serializer.dumps,
        patched=patcher(serializer),
        snapshot=snapshot if is_builtin(serializer) else lambda value: None,
        matches=matcher(serializer),
        differs_for_sure=differs_for_sure if is_builtin(serializer) else lambda payload, base: False,
    )


RULES = rules()


def record_of(data: Any, at: int = NOW, **fields: Any) -> Record:
    payload = data if isinstance(data, bytes) else MSGPACK.dumps(data)
    return Record(payload, **{"began_at": at, "renewed_at": at, **fields})


def found_with(data: Any, token: str = "id", version: int = 1, *, is_alias: bool = False, **fields: Any) -> Found:
    return Found(token, record_of(data, **fields), version, is_alias)


def machine(
    loads: Found | MissReason | dict[str, Any] | None = None, config: Rules = RULES, **fields: Any
) -> tuple[SessionState, dict[str, Any]]:
    """A machine that has loaded this, and its data. Without anything to load: a new visitor."""
    if isinstance(loads, dict):
        loads = found_with(loads)
    state = SessionState(config=config)
    data = state.loaded(MissReason.NO_COOKIE if loads is None else loads)
    for name, value in fields.items():
        setattr(state, name, value)
    return state, data
