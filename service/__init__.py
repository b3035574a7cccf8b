"""The licence-plate reader as a service: artifact in, HTTP out. `python -m service` runs it."""
