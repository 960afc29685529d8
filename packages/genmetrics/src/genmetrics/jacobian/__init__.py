"""Singular values of the Jacobian of a flow, matrix-free or exact."""
