"""Fields that take one of a few words; imports no torch."""

import typing

from mimflow_train.errors import ConfigError

__all__ = ["require_choices"]


def require_choices(config: object, section: str = "") -> None:
    """Raise ConfigError if a ``Literal`` field of a config is none of its words.

    Args:
        config: A dataclass, from Python or from a file that somebody has edited.
        section: Where it is in a run's configuration, with a dot at the end.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        words, value = typing.get_args(hint), getattr(config, name)
        if typing.get_origin(hint) is typing.Literal and value not in words:
            raise ConfigError(
                f"Expected {section}{name} {' or '.join(words)}; got {value}. Choose one of them."
            )
