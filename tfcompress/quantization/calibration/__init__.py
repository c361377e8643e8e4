"""Calibration: integers without training, from typical inputs."""
