"""Counts what of a data set is not read, so that nobody has to find out; imports no torch."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from genmetrics.errors import some
from mimflow_train.data.naming import UNREAD, is_hidden, is_image

__all__ = ["LeftOut"]

_MOST_NAMED = 3  # links in a sentence


@dataclass
class LeftOut:
    """What is not read.

    Attributes:
        validation: A sentence on ImageNet's validation images, or nothing.
        loose: Images that lie in no class folder.
        splits: Images of each folder beside train and val.
        kinds: Files of each extension of images that are not read.
        links: Links that lead nowhere.
        linked_folders: Links to folders inside of classes, which may lead back, or around them.
        links_in_tars: Images that a tar holds as links to others.
    """

    validation: str = ""
    loose: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)
    linked_folders: list[str] = field(default_factory=list)
    links_in_tars: int = 0

    def reads(self, name: str) -> bool:
        """Whether a file is an image that is read; one of another kind is counted."""
        if is_image(name):
            return True
        path = PurePosixPath(name)
        kind = path.suffix.lower()
        if kind in UNREAD and not any(map(is_hidden, path.parts)):
            self.kinds[kind] += 1
        return False

    def remark(self, held_out: str) -> str:
        """Return a sentence for each thing that is left out.

        Args:
            held_out: Name of the folder that is held out.
        """
        sentences = [self.validation] if self.validation else []
        if self.splits:
            (first, count), *others = sorted(self.splits.items())
            more = "".join(f" and {number:,} of {name}/" for name, number in others)
            sentences.append(
                f"{count:,} image(s) of {first}/{more} are left out; "
                f"only train/ and {held_out}/ are read."
            )
        if self.loose:
            sentences.append(f"{self.loose:,} image(s) that lie in no class folder are left out.")
        if self.kinds:
            kinds = sorted(self.kinds.items(), key=lambda each: (-each[1], each[0]))
            counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
            sentences.append(
                f"{self.kinds.total():,} file(s) of kinds that are not read are left out "
                f"({counts})."
            )
        if self.links:
            named = some(sorted(self.links), _MOST_NAMED)
            sentences.append(
                f"{len(self.links):,} link(s) that lead nowhere are left out ({named})."
            )
        if self.linked_folders:
            named = some(sorted(self.linked_folders), _MOST_NAMED)
            sentences.append(
                f"{len(self.linked_folders):,} link(s) to folders inside of or around classes are "
                f"not followed ({named})."
            )
        if self.links_in_tars:
            sentences.append(
                f"{self.links_in_tars:,} image(s) that a tar holds as links are left out; "
                "`tar --hard-dereference -h` packs them as files."
            )
        return " ".join(sentences)
