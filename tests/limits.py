"""Time limits of tests that wait for another process or thread: only what hangs takes so long, on a busy machine as well."""

HANG = 1200  # seconds
