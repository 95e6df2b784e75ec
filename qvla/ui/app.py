"""The page: a head, and the tabs below it. And how it is served."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from pydantic import SecretStr
from starlette.middleware import Middleware
from starlette.routing import Route

from qvla.captioning.loader import LineupLoader
from qvla.captioning.standing_in import with_stand_in
from qvla.errors import QvlaError
from qvla.faults import first_line
from qvla.jobs import publishing
from qvla.jobs.app_worker import AppWorker, start_worker
from qvla.jobs.mirror import mirror_of
from qvla.jobs.service import Jobs
from qvla.settings import ASSETS, Settings, on_zerogpu
from qvla.ui import visitors, zerogpu
from qvla.ui.admin.tab import AdminTab
from qvla.ui.ask.tab import AskTab
from qvla.ui.chat.api import ChatApi
from qvla.ui.compare.tab import CompareTab
from qvla.ui.early import EarlyScript
from qvla.ui.explore.tab import ExploreTab
from qvla.ui.glossary import pop_overs, term
from qvla.ui.health import Health
from qvla.ui.measured.cider import CiderTab
from qvla.ui.measured.latency import LatencyTab
from qvla.ui.measured.memory import MemoryTab
from qvla.ui.metrics import Metrics
from qvla.ui.rates import Rates
from qvla.ui.theme import ICON, STYLE, theme

SCRIPT = (ASSETS / "ui" / "page.js").read_text(encoding="utf-8")
log = logging.getLogger(__name__)

HEAD = (
    '<meta name="description" content="QVLA: captions of satellite photos by a base model, with an '
    'adapter, and quantised with an adapter, side by side.">'
    f"<script>{SCRIPT}</script>"
)
TITLE = f"""
<header class="masthead">
  <svg viewBox="0 0 32 32" width="34" height="34" aria-hidden="true">
    <path d="M4 9V4h5M23 4h5v5M28 23v5h-5M9 28H4v-5" fill="none" stroke="currentColor"
          stroke-width="2"/>
    <path class="leaf" d="M9 9h6v14H9z"/><path class="sand" d="M15 9h8v6h-8z"/>
    <path class="water" d="M15 15h8v8h-8z"/>
  </svg>
  <h1>QVLA</h1>
  <p>One satellite photo, three captions: the base model, the base with an
  {term("Adapter", "adapter")}, and {term("QVLA")}, the same in 4 bits.</p>
</header>
{pop_overs()}
"""
HOUR = 3600
MOST_SESSIONS = 2000  # that are remembered, some 20 kB each; a program may make one a request
TABS = (
    ("Compare", CompareTab),
    ("Ask", AskTab),
    ("Memory", MemoryTab),
    ("Latency", LatencyTab),
    ("CIDEr", CiderTab),
    ("Explore", ExploreTab),
    ("Admin", AdminTab),
)


def build(settings: Settings, loader: LineupLoader, chat: ChatApi | None = None) -> gr.Blocks:
    """The whole page. It can be opened while the loader is still loading."""
    with gr.Blocks(
        title="QVLA · satellite photo captions", delete_cache=(HOUR, 24 * HOUR), fill_width=True
    ) as app:
        gr.HTML(TITLE, elem_id="masthead")
        made = {}
        with gr.Tabs():
            for name, kind in TABS:
                with gr.Tab(name, id=name.lower(), elem_id=f"{name.lower()}-tab") as tab:
                    made[name] = kind(app, settings, loader)
                if hasattr(made[name], "opened_with"):
                    made[name].opened_with(tab)
        for one in made.values():
            if hasattr(one, "joined"):
                one.joined(made)
        if chat is not None:
            chat.lay_out()
    _show_no_progress(app)
    # Closed to direct calls, which would pass the queue by, with its length and its turns.
    app.queue(max_size=settings.queue_size, default_concurrency_limit=8, api_open=False)
    return app


def _show_no_progress(app: gr.Blocks) -> None:
    """Has the browser keep no state of progress for events that show none.

    It would hand that of every output of every event so far to its component at each turn of any
    event, and look through the page's whole tree for each: most of the time to the first caption.
    """
    for event in app.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = []


def open_app(
    settings: Settings, loader: LineupLoader, health: Health | None = None
) -> tuple[gr.Blocks, str]:
    """The page and what is answered beside it, served from a thread, and its address.

    Raises QvlaError when it cannot be served.
    """
    chat = ChatApi(settings, loader) if settings.openai_api == "on" else None
    health = health or Health(settings, loader)
    app = build(settings, loader, chat)
    routes = [*health.routes(), *Metrics(health).routes()]
    routes += [] if chat is None else chat.routes()
    return app, launch(app, settings, routes)


def launch(app: gr.Blocks, settings: Settings, routes: Sequence[Route]) -> str:
    """Serves the page and routes, and returns the address; raises QvlaError when it cannot."""
    # The server believes whoever connects from this machine to be a proxy, unless it is told.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", ",".join(settings.trusted_proxies))
    middleware = [
        Middleware(Rates, per_minute=settings.requests_per_minute),
        Middleware(EarlyScript),
    ]
    try:
        _, address, _ = app.launch(
            prevent_thread_lock=True,
            quiet=True,
            server_name=settings.host,
            server_port=settings.port,
            share=False,
            ssr_mode=False,
            pwa=False,
            run_history=False,
            enable_monitoring=False,
            # Or Gradio gives up where its own page takes three seconds, as on a busy machine. The
            # server listens by then.
            _frontend=False,
            # These routes come before Gradio's own.
            app_kwargs={"routes": routes, "middleware": middleware},
            max_file_size=settings.max_upload_bytes,
            state_session_capacity=MOST_SESSIONS,
            allowed_paths=[],
            footer_links=["api", "settings"],
            favicon_path=str(ICON),
            theme=theme(),
            css_paths=[str(STYLE)],
            head=HEAD,
        )
    except OSError as error:
        where = f"{settings.host}, port {settings.port}" if settings.port else settings.host
        raise QvlaError(
            f"The app cannot listen on {where}: set QVLA_PORT or QVLA_HOST to another one."
        ) from error
    return address


def serve(settings: Settings) -> None:
    """Opens the app, loads the weights beside it and works on jobs; returns when it is closed."""
    visitors.own_folder()
    if settings.admin_password is None and not os.environ.get("SPACE_ID"):
        settings = settings.model_copy(update={"admin_link": SecretStr(secrets.token_urlsafe(24))})
    settings = with_stand_in(settings)
    kept = mirror_of(settings)
    if kept is not None:  # before anybody looks at what was made
        kept.fetch()
        kept.start()
    loader = LineupLoader.of(settings, then=publishing.apply)
    if on_zerogpu():
        zerogpu.prepare(loader)
    else:
        loader.start()
    health = Health(settings, loader)
    app, address = open_app(settings, loader, health)
    print(f"QVLA is open at {address}", flush=True)
    if settings.admin_link is not None:
        link = f"{address}?admin={settings.admin_link.get_secret_value()}"
        print(f"This link opens its admin tab, once: {link}", flush=True)
    worker = health.worker = work_on_jobs(settings)
    try:
        app.block_thread()
    finally:
        if worker is not None:
            worker.close()
        if kept is not None:
            kept.close()


def work_on_jobs(settings: Settings) -> AppWorker | None:
    """What a job needs must not keep visitors from comparing."""
    try:
        Jobs(settings).recover()
    except Exception as error:  # the worker waits for a store that can be used
        log.error("Fine-tune jobs cannot be looked after: %s", _sentence(error))
    try:
        return start_worker(settings)
    except Exception as error:
        log.error("Fine-tune jobs are not worked on: %s", _sentence(error))
        return None


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, QvlaError) else first_line(error)
