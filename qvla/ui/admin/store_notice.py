"""What is wrong with the jobs as a whole, above all of them, and the way to set a damaged store
aside.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from qvla.errors import QvlaError
from qvla.jobs import mirror, publishing
from qvla.jobs.errors import DamagedStoreError
from qvla.settings import Settings
from qvla.ui.admin.form import problem
from qvla.ui.admin.persistence import what_is_lost
from qvla.words import counted

OFFER = (
    "Setting it aside renames the damaged file, so that nothing in it is lost, and begins an empty "
    "list. The folders of all jobs stay where they are."
)


class StoreNotice:
    """Lays itself out where it is made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.html = gr.HTML(elem_id="admin-notice", label="Notice")
        self.button = gr.Button(
            "Set the damaged store aside",
            visible=False,
            size="sm",
            elem_id="admin-set-aside",
            min_width=200,
        )

    @property
    def outputs(self) -> list[Any]:
        return [self.html, self.button]

    def show(self, *sentences: str) -> dict[Any, Any]:
        return {self.html: "".join(map(problem, sentences)), self.button: gr.Button(visible=False)}

    def show_standing(self) -> dict[Any, Any]:
        """What is wrong whichever job is looked at."""
        lost = what_is_lost(self._settings)
        told = [*publishing.problems(self._settings).values(), *mirror.problems(self._settings)]
        return self.show(*([] if lost is None else [lost]), *told)

    def show_error(self, error: QvlaError) -> dict[Any, Any]:
        """That no job can be shown, and why."""
        damaged = isinstance(error, DamagedStoreError)
        sentences = [str(error), OFFER] if damaged else [str(error)]
        return {**self.show(*sentences), self.button: gr.Button(visible=damaged)}

    def set_aside(self) -> str:
        """Does it, and says so. Raises JobError when it cannot be done."""
        from qvla.jobs.repair import set_aside

        names = set_aside(self._settings)
        return (
            f"Set aside: {counted(len(names), 'file')} in the folder of jobs, {', '.join(names)}."
        )
