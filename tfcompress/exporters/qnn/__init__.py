"""The "qnn" format: a program for the Hexagon NPU of Qualcomm's chips."""
