"""Every knob of the app in one place: defaults, overridden by environment variables `QVLA_*`.

Also where files lie. Those that come with QVLA, `checkpoints/` and `assets/`, are beside the
package in a checkout, and within it once it is installed (`pyproject.toml` puts them there). What
is made while it runs goes to `home`, never into an installed package.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from platformdirs import user_data_path
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from qvla.errors import QvlaError

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = None if (PACKAGE / "shipped").is_dir() else PACKAGE.parent
SHIPPED = CHECKOUT or PACKAGE / "shipped"
ASSETS = SHIPPED / "assets"
RECIPES = ASSETS / "recipes"
EMBEDDED_MODEL = SHIPPED / "checkpoints" / "mini"
PREFIX = "QVLA_"
# PaliGemma's prompts for a caption, and before a question (arXiv 2407.07726, section 3).
CAPTION_PREFIX = "caption en"
QUESTION_PREFIX = "answer en"
Embeddings = Literal["int8", "bf16"]
EMBEDDINGS = get_args(Embeddings)


class SettingsError(QvlaError):
    """An environment variable has a value that cannot be used; the message names both."""


def _home() -> Path:
    if CHECKOUT is not None and os.access(CHECKOUT, os.W_OK):
        return CHECKOUT / "runs"
    return user_data_path("qvla", appauthor=False)


PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


def _in_home(name: str) -> Callable[[dict[str, Any]], Path]:
    return lambda fields: fields["home"] / name


def _proxies() -> tuple[str, ...]:
    """What stands before a Space and nobody else can be: private networks. Elsewhere nothing."""
    return PRIVATE_NETWORKS if os.environ.get("SPACE_ID") else ()


class Settings(BaseSettings):
    """What runs, where, and how much a visitor may ask of it.

    Each field is read from `QVLA_<FIELD>`. Host and port also answer to Gradio's own variables,
    which is how a Hugging Face Space sets them.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", populate_by_name=True
    )

    model: str = Field(
        str(EMBEDDED_MODEL), description="PaliGemma or LLaVA checkpoint: hub id or folder"
    )
    adapter: str | None = Field(None, description="adapter on the float base: hub id or folder")
    nf4_adapter: str | None = Field(None, description="adapter on the NF4 base: hub id or folder")
    stands_in_for: str | None = Field(
        None, description="the gated model in whose place the embedded one answers; told at start"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="of base and adapter; auto is bf16 on CUDA, fp16 on cards without it, and fp32 "
        "on the CPU",
    )
    lineup: Path | None = Field(
        None, description="YAML file with other contenders than base, adapter and qvla"
    )
    bank: Path | None = Field(
        None, description="folder of adapters, any of which a request may name (captioning/bank.py)"
    )
    bank_mb: int = Field(
        1024, ge=1, le=2**20, description="what the bank's adapters may take in memory, 2^20 bytes"
    )
    nf4_embeddings: Embeddings = Field(
        "int8", description="of QVLA's embedding table, which NF4 leaves as it is"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    graphs: Literal["auto", "off"] = Field(
        "auto", description="replay decoding steps as CUDA graphs, where they were seen to be right"
    )

    data: Path | None = Field(None, description="folder in the RISC layout, for the gallery")
    examples: Path = Field(ASSETS / "examples", description="the examples, same layout")

    max_upload_mb: int = Field(20, ge=1, le=1024, description="largest upload, 2^20 bytes each")
    max_photos: int = Field(50, ge=1, le=500, description="photos that may be dropped at once")
    max_pixels: int = Field(50_000_000, ge=64, description="largest photo, width times height")
    concurrency: int = Field(8, ge=1, le=64, description="comparisons that may run at once")
    queue_size: int = Field(16, ge=1, le=10_000, description="comparisons that may wait")
    openai_api: Literal["on", "off"] = Field(
        "off", description="whether the app answers OpenAI's chat completions (ui/chat/)"
    )
    openai_key: SecretStr | None = Field(None, description="what its clients must send, if set")

    log: Literal["text", "json"] = Field(
        "text", description="of the app and the worker: sentences, or a JSON object a line"
    )

    home: Path = Field(
        default_factory=_home,
        description="what is made here: records, jobs, data written out (default: `runs` in a "
        "checkout that can be written, and else the user's data folder)",
    )
    store: str | None = Field(
        None,
        pattern=r"^hub:[\w-][\w.-]*/[\w-][\w.-]*$",
        description="hub:owner/name, a repository that keeps adapters and records as well",
    )
    records: Path = Field(
        default_factory=_in_home("records"),
        description="where measured records lie; a folder named here hides those that are shipped",
    )
    measure: Literal["auto", "on", "off"] = Field(
        "auto", description="whether visitors may start measurements; auto: not on a Space"
    )

    votes: Literal["auto", "on", "off"] = Field(
        "auto", description="whether visitors may vote on captions; auto: not on a Space"
    )

    admins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="accounts that may use the admin tab of a Space, with commas between"
    )
    admin_password: SecretStr | None = Field(None, description="of the admin tab, off a Space")
    admin_link: SecretStr | None = Field(
        None, description="what opens the admin tab once, without a password; made at each start"
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default_factory=_proxies,
        description="addresses or networks of proxies whose X-Forwarded-For is believed, with "
        "commas; on a Space its own network",
    )
    requests_per_minute: int = Field(
        600, ge=0, le=1_000_000, description="of one public address; 0 refuses nobody"
    )
    jobs: Path = Field(
        default_factory=_in_home("jobs"), description="fine-tune jobs: their files and store"
    )
    data_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="folders whose data a job may name, with commas between; QVLA_DATA is one"
    )
    max_waiting_jobs: int = Field(8, ge=1, le=1000, description="jobs that may wait in the queue")
    worker: Literal["auto", "off"] = Field(
        "auto", description="auto: the app runs a worker; off: `qvla worker` does, elsewhere"
    )
    runner: Literal["local", "hf-jobs"] = Field(
        "local", description="where fine-tunes compute: here, or as Hugging Face Jobs (jobs/hf/)"
    )
    job_flavor: str | None = Field(
        None, description="hardware of Hugging Face Jobs (default: the smallest GPU that fits)"
    )
    job_hours: float | None = Field(
        None, gt=0, le=720, description="time-out of Hugging Face Jobs (default: by the estimate)"
    )
    redis_url: str | None = Field(None, description="queue jobs on Redis, for several machines")
    database_url: str | None = Field(
        None, description="job store as SQLAlchemy names it (default: a SQLite file in `jobs`)"
    )

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

    @field_validator("data", "examples", "home", "records", "jobs", "lineup", "bank")
    @classmethod
    def _expanded(cls, folder: Path | None) -> Path | None:
        return None if folder is None else folder.expanduser()

    @field_validator("admins", "data_roots", "trusted_proxies", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("data_roots")
    @classmethod
    def _all_expanded(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(folder.expanduser() for folder in folders)

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
    def model_name(self) -> str:
        """What pages and records call the model: its id, or its folder's name without the path."""
        folder = Path(self.model)
        return folder.name if folder.is_dir() else self.model

    def model_called(self, name: str) -> str:
        """The model that a page means by a name: its own by `model_name`, so that no page holds
        where it lies; any other name as it is.
        """
        return self.model if name == self.model_name else name

    @property
    def device_lock(self) -> Path:
        """The lock by which comparing goes before fine-tunes (`qvla.captioning.sharing`)."""
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())  # machines may share `jobs`
        return self.jobs / f"device.{host}.lock"

    @property
    def uploads(self) -> Path:
        """Where data lies that admins have uploaded: workers elsewhere see it as well."""
        return self.jobs / "data"

    @property
    def may_measure(self) -> bool:
        """Whether visitors may start measurements: on ZeroGPU they would have no GPU."""
        if on_zerogpu():
            return False
        if self.measure == "auto":
            return not os.environ.get("SPACE_ID")
        return self.measure == "on"

    @property
    def may_vote(self) -> bool:
        """Whether visitors may vote on captions whose names are hidden."""
        if self.votes == "auto":
            return not os.environ.get("SPACE_ID")
        return self.votes == "on"

    @property
    def votes_file(self) -> Path:
        """Where their votes are kept."""
        return self.home / "votes.jsonl"

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * 2**20


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; raises SettingsError with one sentence on a bad value."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = [
            f"{_variable(fault['loc'])} is {fault['input']!r}, but {_wish(fault['msg'])}"
            for fault in error.errors()
        ]
        raise SettingsError(f"{'; '.join(faults)}: set another value or unset it.") from error


def on_zerogpu() -> bool:
    """Whether this is a Space on ZeroGPU, as its package `spaces` reads it."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a Python process that imports this very package, wherever it starts."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "model"
    return name if name.isupper() else PREFIX + name.upper()


def _wish(message: str) -> str:
    """pydantic's "Input should be …" as the second half of a sentence."""
    message = message.removeprefix("Value error, ").replace("Input should", "it should")
    return message[:1].lower() + message[1:].rstrip(".")
