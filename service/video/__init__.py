"""Video: from streams to one event for each plate that passes. Needs the extra `video`."""
