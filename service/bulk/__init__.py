"""Reading of millions of images on Ray: `lpr bulk`, and a deployment for Ray Serve."""
