"""Reconstruction: kernels learn their integers by what their block puts out."""
