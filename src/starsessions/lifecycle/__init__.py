"""The session of one request: loading, tracking and saving, between the middleware and the backend."""
