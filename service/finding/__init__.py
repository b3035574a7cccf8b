"""Finding plates in photographs: pure functions before the finder network and after its maps."""
