"""What differs between two configurations, in words; imports no torch."""

from collections.abc import Collection

__all__ = ["differences"]


def differences(
    old: object,
    new: object,
    free: Collection[str],
    words: tuple[str, str] = ("was", "now"),
    name: str = "",
) -> list[str]:
    """Name what differs between two configurations, but for what is free to.

    Args:
        old: One of them, as plain values.
        new: The other.
        free: Dotted names of fields or of sections.
        words: Before a value of the one, and of the other.
        name: What both of them are the values of.

    Example:
        >>> differences({"optim": {"lr": 1.0}, "seed": 0}, {"optim": {"lr": 0.5}}, ["seed"])
        ['optim.lr was 1.0, now 0.5']
    """
    if name in free:
        return []
    if name == "data.fingerprint" and old != new:
        return ["the images (files were added, removed, renamed or written anew)"]
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(set(old) | set(new))
            for line in differences(
                old.get(key), new.get(key), free, words, f"{name}.{key}".lstrip(".")
            )
        ]
    if isinstance(old, tuple | list) and isinstance(new, tuple | list):
        old, new = list(old), list(new)
    return [] if old == new else [f"{name} {words[0]} {old}, {words[1]} {new}"]
