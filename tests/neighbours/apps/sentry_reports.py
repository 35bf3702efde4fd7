"""Sentry: what is in its reports of requests with a session."""

from typing import Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from watched import watched

kept: list[str] = []


class Kept(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        kept.append(envelope.serialize().decode())


sentry_sdk.init(
    dsn="http://key@127.0.0.1:9/1",
    transport=Kept,
    traces_sample_rate=1.0,
    include_local_variables=False,
)

app = watched()


@app.get("/reports")
async def reports() -> Any:
    sentry_sdk.flush()
    return kept
