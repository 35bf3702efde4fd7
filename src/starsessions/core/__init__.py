"""The pure rooms: no await, no clock, no randomness, no socket. Time and chance come in as arguments."""
