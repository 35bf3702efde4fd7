"""Tokens that a browser may hold and cannot change: signed (readable) and encrypted (not readable)."""
