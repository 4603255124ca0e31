"""The nearest of the names that exist, for a name that doesn't."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` most likely means, or None if none is near."""
    folded = {name.lower(): name for name in known}
    begun = [name for name in folded if name.startswith(word.lower())]
    if len(begun) == 1:
        return folded[begun[0]]
    found = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: `; did you mean 'svd'?`, or the whole list where nothing is near."""
    names = list(known)
    found = nearest(word, names)
    return f"; did you mean {found!r}?" if found else f"; there are {', '.join(names)}"
