"""Tamper-proof tokens for cookies: signed (the user can read them) and encrypted (the user cannot)."""
