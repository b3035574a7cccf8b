"""Load, fuzzing and endurance: what is too long for the tests, run by `make loadtest`, `make fuzz` and `make soak`."""
