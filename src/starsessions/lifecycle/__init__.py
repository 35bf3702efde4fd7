"""One request's session, between the ASGI shell and the backend."""
