"""Numbers as people read them: a value in, a short text with its unit out."""

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def digits(value: float, count: int = 3) -> str:
    """`value` to `count` significant digits, without an exponent for what people meet (1e-5 up): 0.00123, 45.6, 123."""
    if value == 0:
        return "0"
    if abs(value) < 1e-5:
        return f"{value:.{count - 1}e}"
    rounded = float(f"{value:.{count - 1}e}")
    whole = len(str(int(abs(rounded)))) if abs(rounded) >= 1 else 0
    return f"{rounded:.{max(count - whole, 0)}f}" if whole else f"{rounded:.{count - 1 + _zeros(rounded)}f}"


def quantity(value: float, unit: str = "") -> str:
    """1,234,567 as '1.23 M', with the unit after the prefix: '45.6 kB'. Below a thousand whole numbers stay whole."""
    for size, prefix in PREFIXES:
        if abs(value) >= 0.9995 * size:
            return f"{digits(value / size)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def rounded(count: int) -> str:
    """A number of samples to two digits, '1,300', upwards."""
    step = 10 ** max(len(str(count)) - 2, 0)
    return f"{-(-count // step) * step:,}"


def duration(microseconds: float, spread: float | None = None) -> str:
    """'123 µs', '4.56 ms' or '7.89 s'; with a spread '45.2 ± 0.9 µs', both to the same place."""
    size, unit = _time_unit(microseconds)
    median = digits(microseconds / size)
    if spread is None:
        return f"{median} {unit}"
    return f"{median} ± {spread / size:.{len(median.partition('.')[2])}f} {unit}"


def _time_unit(microseconds: float) -> tuple[float, str]:
    if microseconds >= 999_500:
        return 1e6, "s"
    return (1e3, "ms") if microseconds >= 999.5 else (1.0, "µs")


def percent(share: float) -> str:
    """0.9871 as '98.71 %'; a share that isn't quite 1 never reads as 100 %."""
    shown = f"{100 * share:.2f}"
    return "99.99 %" if shown == "100.00" and share < 1 else f"{shown} %"


def percent_of(share: float) -> str:
    """A share to three digits, however small: 0.00834 as '0.834 %'."""
    return f"{100 * share:.3g} %"


def signed(value: float) -> str:
    """A number with its sign and two decimals, '+0.35' or '−1.20'."""
    return f"{value:+.2f}".replace("-", "−")


def _zeros(value: float) -> int:
    """How many places after the point the first digit of a number below 1 stands."""
    return -int(f"{abs(value):e}".split("e")[1])
