"""All that is about OpenVINO's files."""
