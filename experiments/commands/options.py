"""What several commands take, and how that is read, checked and written."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

if TYPE_CHECKING:
    from goodteacher.sim.instance import Instance


def optional(metavar: str) -> Any:
    """Of an option that may be left out; its help says what then holds."""
    return arg(metavar=metavar, help_behavior_hint="")


def given(**options: Any) -> dict[str, Any]:
    """Those options that are not left out; for the others what they are given to has defaults."""
    return {name: value for name, value in options.items() if value is not None}


Names = Annotated[Positional[tuple[str, ...]], optional("[NAME ...]")]
Texts = UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class InstanceFile:
    """Where the problem comes from."""

    file: Annotated[Positional[Path], arg(metavar="FILE.json")]
    """The instance."""
    nearest: bool = False
    """If features cannot realise the initial probabilities, start from the nearest that they can."""

    def read(self) -> "Instance":
        """The instance.

        Raises:
            ValueError: if the file cannot be read or holds none.
        """
        from goodteacher.sim.files import read_instance

        return read_instance(self.file, nearest=self.nearest)


@dataclass(frozen=True)
class Result:
    """Where the result goes."""

    output: Annotated[Path | None, optional("OUT.json")] = None
    """Write the result as JSON."""
    overwrite: bool = False
    """Replace files that exist."""

    def check(self) -> None:
        """Refuses a file that cannot or must not be written, before anything is computed.

        Raises:
            ValueError: saying why.
        """
        from goodteacher.sim.files import check_writable

        if self.output is not None:
            check_writable(self.output, overwrite=self.overwrite)

    def write(self, contents: Any) -> None:
        """Writes it, if it is to go anywhere."""
        from goodteacher.sim.files import write_json

        if self.output is not None:
            write_json(self.output, contents, overwrite=self.overwrite)


NOWHERE = Result()
