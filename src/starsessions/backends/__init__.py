"""Where sessions live: in the cookie itself, in memory, or in whatever a `SessionBackend` or a `Store` stands for."""
