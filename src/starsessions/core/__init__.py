"""The pure part: no await, no clock, no randomness, no socket. Time and random bytes are passed in as arguments."""
