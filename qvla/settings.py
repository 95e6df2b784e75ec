"""Every knob of the app in one place: defaults, overridden by environment variables `QVLA_*`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from qvla.errors import QvlaError

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED_MODEL = ROOT / "checkpoints" / "mini"
PREFIX = "QVLA_"


class SettingsError(QvlaError):
    """An environment variable has a value that cannot be used; the message names both."""


class Settings(BaseSettings):
    """What runs, where, and how much a visitor may ask of it.

    Each field is read from `QVLA_<FIELD>`. Host and port also answer to Gradio's own variables,
    which is how a Hugging Face Space sets them.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", populate_by_name=True
    )

    model: str = Field(str(EMBEDDED_MODEL), description="PaliGemma checkpoint: hub id or folder")
    adapter: str | None = Field(None, description="adapter on the float base: hub id or folder")
    nf4_adapter: str | None = Field(None, description="adapter on the NF4 base: hub id or folder")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of base and adapter; auto is bf16 on CUDA and fp32 on the CPU"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"

    data: Path | None = Field(None, description="folder in the RISC layout, for the gallery")
    examples: Path = Field(ROOT / "assets" / "examples", description="the examples, same layout")

    max_upload_mb: int = Field(20, ge=1, le=1024, description="largest upload, 2^20 bytes each")
    max_pixels: int = Field(50_000_000, ge=64, description="largest photo, width times height")
    concurrency: int = Field(1, ge=1, le=64, description="comparisons that may run at once")
    queue_size: int = Field(16, ge=1, le=10_000, description="comparisons that may wait")

    host: str = Field(
        "127.0.0.1", validation_alias=AliasChoices("QVLA_HOST", "GRADIO_SERVER_NAME", "host")
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        validation_alias=AliasChoices("QVLA_PORT", "GRADIO_SERVER_PORT", "port"),
        description="unset: the first free one from 7860",
    )

    @field_validator("data", "examples")
    @classmethod
    def _home(cls, folder: Path | None) -> Path | None:
        return None if folder is None else folder.expanduser()

    @model_validator(mode="after")
    def _adapters_beside_the_model(self) -> Settings:
        """A checkpoint folder may hold its adapters; a Space listens on every interface."""
        if self.adapter is None and (Path(self.model) / "adapter").is_dir():
            self.adapter = str(Path(self.model) / "adapter")
        if self.nf4_adapter is None and (Path(self.model) / "qvla").is_dir():
            self.nf4_adapter = str(Path(self.model) / "qvla")
        if "host" not in self.model_fields_set and os.environ.get("SPACE_ID"):
            self.host = "0.0.0.0"
        return self

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * 2**20


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment; raises SettingsError with one sentence on a bad value."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = [
            f"{_variable(fault['loc'])} is {fault['input']!r}, but {_wish(fault['msg'])}"
            for fault in error.errors()
        ]
        raise SettingsError(f"{'; '.join(faults)}: set another value or unset it.") from error


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "model"
    return name if name.isupper() else PREFIX + name.upper()


def _wish(message: str) -> str:
    """pydantic's "Input should be …" as the second half of a sentence."""
    message = message.removeprefix("Value error, ").replace("Input should", "it should")
    return message[:1].lower() + message[1:].rstrip(".")
