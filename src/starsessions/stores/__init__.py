"""Bytes under a key with a version: the contract of a store, and the stores that come with the package."""
