"""Backends keep sessions: in the cookie, in memory, in a `Store`, or in the application's own `SessionBackend`."""
