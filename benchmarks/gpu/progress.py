"""Results of the parts measured so far, written after each part, so that another run continues where one ended."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

from polypstream.files import write_atomically

Result = dict[str, object]
MOST_ATTEMPTS = 2
"""Runs that may end within a part without a result, as in a crash of the driver; later ones leave it out."""


class Unavailable(Exception):  # noqa: N818 - no error: the part is reported as not measured
    """A part that this machine cannot measure; the text is the reason."""


class Progress:
    """The measured parts, and the file that holds them.

    Args:
        path: The file; results in it are kept if they are of the same conditions.
        conditions: What all results depend on, such as the device and the commit.
        seconds: Parts that have not begun by then are left to the next run.
    """

    def __init__(self, path: Path, conditions: Mapping[str, object], *, seconds: float) -> None:
        self.path, self._ends_at = path, monotonic() + seconds
        self.results: dict[str, Result] = {}
        self.left: list[str] = []
        """Parts for which there was no time."""
        self._attempts: dict[str, int] = {}
        self._conditions = json.loads(json.dumps(conditions))
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["conditions"] == self._conditions:
                self.results, self._attempts = stored["results"], stored["attempts"]
            else:
                print(f"{path} is of other conditions; all parts are measured again")

    def run(self, name: str, measure: Callable[[], Result]) -> None:
        """Measure a part and store its result, unless an earlier run has."""
        if self._is_done(name):
            print(f"{name}: measured before")
            return
        if self._attempts.get(name, 0) >= MOST_ATTEMPTS:
            self._store(name, {"skipped": f"{MOST_ATTEMPTS} runs ended within this part"})
            return
        if monotonic() > self._ends_at:
            self.left.append(name)
            return
        self._attempts[name] = self._attempts.get(name, 0) + 1
        self._write()
        began = monotonic()
        try:
            result = measure()
        except Unavailable as reason:
            result = {"skipped": str(reason)}
        except Exception as error:  # noqa: BLE001 - drivers fail in many ways, and the other parts are still of use
            result = {"skipped": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        self._attempts[name] = 0
        self._store(name, {**result, "took_s": round(monotonic() - began, 2)})

    def _is_done(self, name: str) -> bool:
        """Whether there are figures; what was skipped is tried again, unless it ended the process."""
        return name in self.results and "skipped" not in self.results[name]

    def _store(self, name: str, result: Result) -> None:
        self.results[name] = result
        self._write()
        print(f"{name}: {result.get('skipped') or 'done'}")

    def _write(self) -> None:
        content = {"conditions": self._conditions, "results": self.results, "attempts": self._attempts}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(content, indent=1))
