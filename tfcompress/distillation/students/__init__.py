"""Students that are no neural networks, and heads."""
