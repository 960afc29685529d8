"""The names of feature networks, known without loading any of them. Imports no torch."""

from importlib.metadata import EntryPoint, entry_points

from genmetrics.errors import UsageError, did_you_mean
from genmetrics.factories import is_factory

ENTRY_POINT_GROUP = "genmetrics.extractors"
BUILT_IN = ("inception", "efflite0", "dinov2", "clip")
FAMILIES = {"timm": "timm:NAME", "open_clip": "open_clip:ARCH[/TAG]"}  # what follows is not checked
_FACTORY = "PKG.MOD:FACTORY"


def plugin_extractors() -> dict[str, EntryPoint]:
    """Return the feature networks that other packages declare, by name.

    A package declares one in its ``pyproject.toml``::

        [project.entry-points."genmetrics.extractors"]
        mine = "my_package.my_module:factory"

    where ``factory(weights: Path | None, device: str)`` returns an
    :class:`~genmetrics.networks.extractors.Extractor`. Names that genmetrics has itself are not
    replaced.
    """
    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    return {name: found[name] for name in sorted(found) if name not in BUILT_IN}


def check_extractor_name(name: str) -> str:
    """Return the name of a feature network, which may be a function of the user's.

    Such a one, ``package.module:function``, is like that of :func:`plugin_extractors`; whether it
    is there is not checked.

    Raises:
        UsageError: If there is none; lists the names and suggests the nearest.

    Example:
        >>> check_extractor_name("timm:resnet18")
        'timm:resnet18'
        >>> try:
        ...     check_extractor_name("incepton")
        ... except UsageError as error:
        ...     print(error)
        Expected an extractor (inception, efflite0, dinov2, clip, timm:NAME, \
open_clip:ARCH[/TAG], PKG.MOD:FACTORY); got 'incepton'. Did you mean inception?
    """
    family, colon, rest = name.partition(":")
    names = (*BUILT_IN, *plugin_extractors())
    if name in names or is_factory(name) or (family in FAMILIES and colon and rest):
        return name
    listed = ", ".join((*names, *FAMILIES.values(), _FACTORY))
    raise UsageError(
        f"Expected an extractor ({listed}); got {name!r}.{did_you_mean(name, (*names, *FAMILIES))}"
    )
