"""Second moments from few samples, made trustworthy: a matrix and its number of samples in, a positive definite one
out."""

import numpy as np

FLOOR = 1e-7


def shrunken(matrix: np.ndarray, samples: float) -> np.ndarray:
    """(1 - rho) S + rho tr(S)/d I for each S of `matrix` [groups, d, d], with the oracle approximating rho for
    `samples` draws (OAS; Chen, Wiesel, Eldar and Hero, 2010, eq. 23), and at least FLOOR."""
    symmetric = (matrix + matrix.transpose(0, 2, 1)) / 2
    width = matrix.shape[-1]
    mean = np.trace(symmetric, axis1=1, axis2=2) / width
    square = np.einsum("gij,gij->g", symmetric, symmetric)
    spread = np.maximum(square - width * mean**2, 0.0)
    numerator = (1 - 2 / width) * square + (width * mean) ** 2
    denominator = (samples + 1 - 2 / width) * spread
    rho = np.divide(numerator, denominator, out=np.ones_like(mean), where=denominator > numerator)
    rho = np.clip(rho, FLOOR, 1.0)[:, None, None]
    smallest = np.where(mean > 0, mean, 1e-30)[:, None, None]
    return (1 - rho) * symmetric + rho * smallest * np.eye(width)
