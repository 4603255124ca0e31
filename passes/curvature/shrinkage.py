"""Second moments from few samples, made trustworthy: a matrix and its number of samples in, a positive definite one
out."""

import numpy as np

FLOOR = 1e-7
SMALLEST = 1e-30


def shrunken(matrix: np.ndarray, samples: float, prior: np.ndarray | None = None) -> np.ndarray:
    """(1 - rho) S + rho P for each S of `matrix` [groups, d, d], with the oracle approximating rho for `samples` draws
    (OAS; Chen, Wiesel, Eldar and Hero, 2010, eq. 23), and at least FLOOR.

    P is I, or `prior` [groups, d, d] for what is expected of S up to its scale, with the trace of S.
    """
    symmetric = (matrix + matrix.transpose(0, 2, 1)) / 2
    width = matrix.shape[-1]
    mean = np.trace(symmetric, axis1=1, axis2=2) / width
    square = np.einsum("gij,gij->g", symmetric, symmetric)
    spread = np.maximum(square - width * mean**2, 0.0)
    numerator = (1 - 2 / width) * square + (width * mean) ** 2
    denominator = (samples + 1 - 2 / width) * spread
    rho = np.divide(numerator, denominator, out=np.ones_like(mean), where=denominator > numerator)
    rho = np.clip(rho, FLOOR, 1.0)[:, None, None]
    smallest = np.where(mean > 0, mean, SMALLEST)[:, None, None]
    return _definite((1 - rho) * symmetric + rho * smallest * _unit(width, prior))


def _unit(width: int, prior: np.ndarray | None) -> np.ndarray:
    """The prior with the trace of I, a little of it I itself."""
    eye = np.eye(width)
    if prior is None:
        return eye
    trace = np.trace(prior, axis1=1, axis2=2)[:, None, None] / width
    return np.where(trace > 0, (1 - FLOOR) * prior / np.where(trace > 0, trace, 1.0) + FLOOR * eye, eye)


def _definite(matrix: np.ndarray) -> np.ndarray:
    """`matrix` itself if it is positive definite; else its eigenvalues are raised to FLOOR of the largest.

    Sums in float32 leave a few slightly negative where inputs hardly vary.
    """
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        least = np.maximum(FLOOR * values[:, -1:], SMALLEST)
        return (vectors * np.maximum(values, least)[:, None, :]) @ vectors.transpose(0, 2, 1)
    return matrix
