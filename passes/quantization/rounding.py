import numpy as np

ROUNDINGS = ("two-sided", "column", "nearest")


def rounded_weight(weight, integers, moments, centered, method):
    g, o, i = weight.shape
    b = integers.block or i
    blocks = weight.reshape(g, o, i // b, b)
    s = np.abs(blocks).max(-1) / integers.highest
    s[s == 0] = 1
    s = s.astype(np.float32).astype(np.float64)
    c = np.clip(np.rint(weight / integers.spread(s, i)), integers.lowest, integers.highest)
    return c, s
