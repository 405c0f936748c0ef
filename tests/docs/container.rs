//! docs/containers.md: the Dockerfile's commands work, without an image.
