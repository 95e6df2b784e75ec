"""Files from visitors: themselves, as they were sent, and never fetched from an address.

Gradio's components take the address of a file in place of the file and have the server fetch it.
Whoever may ask for that can have the server ask others, so no component of this app does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio import component_meta


class WithoutStub(type(gr.HTML)):
    """Gradio writes a .pyi beside the module of each component class; not into our package."""

    def __new__(cls, *definition: Any) -> type:
        write = component_meta.create_or_modify_pyi
        component_meta.create_or_modify_pyi = lambda *_: None
        try:
            return super().__new__(cls, *definition)
        finally:
            component_meta.create_or_modify_pyi = write


class FilesThemselves:
    """For components, before Gradio's own class: refuses addresses."""

    def move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        _refuse_address(url_or_file_path)
        return super().move_resource_to_block_cache(url_or_file_path)

    async def async_move_resource_to_block_cache(
        self, url_or_file_path: str | Path | None
    ) -> str | None:
        _refuse_address(url_or_file_path)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


class UploadButton(FilesThemselves, gr.UploadButton, metaclass=WithoutStub):
    """Gradio's button to upload a file."""

    def get_block_name(self) -> str:
        return "uploadbutton"  # what the browser knows it as


def _refuse_address(path: str | Path | None) -> None:
    if path is not None and "://" in str(path):
        raise gr.Error("Send the file itself, not its address.", print_exception=False)
