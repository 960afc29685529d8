"""What can go wrong for a user, by exit code. Every message is one or two sentences."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

EXIT_SKIPPED = 6  # the command finished, without the images that cannot be read


class GenmetricsError(Exception):
    """A mistake or a missing file that the message explains; subclasses fix the exit code."""

    exit_code = 1


class UsageError(GenmetricsError, ValueError):
    """An option or argument has a value that cannot be used."""

    exit_code = 2


class BadInput(GenmetricsError, ValueError):  # noqa: N818  # the word for the situation
    """Images, arrays or statistics are missing, unreadable or too few."""

    exit_code = 3


class WeightsUnavailable(GenmetricsError, RuntimeError):  # noqa: N818  # the word for the situation
    """The weights of a feature network are not here, or are not the expected ones."""

    exit_code = 4


class NumericalFailure(GenmetricsError, ArithmeticError):  # noqa: N818  # the word for the situation
    """A computation gave values that are not numbers, or not a distance."""

    exit_code = 5


def some(values: Sequence[object], most: int) -> str:
    """Return the first of some values with commas between, and dots if there are more.

    Example:
        >>> some([3, 1, 4], 2), some(["a", "b"], 2)
        ('3, 1, ...', 'a, b')
    """
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


def one_of(choices: Sequence[str], **values: object) -> None:
    """Refuse a word that is not among the choices.

    Args:
        choices: What is allowed.
        values: The argument and its value.

    Raises:
        UsageError: If the value is not allowed.
    """
    *first, last = map(repr, choices)
    for name, value in values.items():
        if value not in choices:
            advice = did_you_mean(value, choices) if isinstance(value, str) else ""
            raise UsageError(
                f"Expected {name} {', '.join(first)} or {last}; got {value!r}."
                f"{advice or ' Choose one of these.'}"
            )


def require_no_empty(words: Sequence[str]) -> None:
    """Raise if an argument is empty, as that of a shell's variable that is not set.

    A path would be the folder around, another option would be as good as left out.

    Raises:
        UsageError: With the option's name.

    Example:
        >>> require_no_empty(["eval", "samples", "--ref", "real"])
    """
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if word and not (word.startswith("--") and equals and not value):
            continue
        name = option or before
        is_option = name.startswith("--") and "=" not in name
        where = f"after {name}" if is_option else "in every argument"
        raise UsageError(
            f"Expected text {where}; got an empty one. Is a variable of the shell not set?"
        )


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a sentence that suggests the nearest of some names, or nothing if none is near."""
    near = get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""
