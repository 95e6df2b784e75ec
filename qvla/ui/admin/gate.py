"""The door of the admin tab: signing in, and the one way in which its handlers are wired.

Whatever the tab does goes through `Gate.on`, which asks `Rights` before the handler hears of it.
What is behind the door is empty until then: no handler, nothing of the jobs on the page.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

import gradio as gr
from gradio.utils import get_space

from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.rights import Rights, RightsError, Who

log = logging.getLogger(__name__)

# Takes the secret of the link out of the address, so that it is in no bookmark and no history.
TAKE_LINK = """() => {
  const address = new URL(location.href);
  const secret = address.searchParams.get("admin") ?? "";
  if (secret) {
    address.searchParams.delete("admin");
    history.replaceState(null, "", address);
    window.qvlaCameByLink = true;
  }
  return [secret];
}"""
# Only when the link was answered: opening the tab asks who is there, and without a session it would
# say "Sign in first" to who is being signed in.
SHOW_TAB = """() => {
  if (!window.qvlaCameByLink) return;
  window.qvlaCameByLink = false;
  window.qvlaTab("admin");
}"""
Updates = dict[Any, Any]
Handler = Callable[..., Mapping[Any, Any]]

STORAGE_KEY = "qvla-admin"
NO_OAUTH = "This Space tells no accounts apart: add `hf_oauth: true` to the head of its README.md."


class Gate:
    """Lays the door out where it is made; `inside` is for what lies behind it.

    `api_name` of every event begins with `admin_`.
    """

    def __init__(self, settings: Settings) -> None:
        self.rights = Rights(settings)
        self.with_account = self.rights.asks_for_account and _has_oauth()
        # Every page is told the key of what it stores, so it keeps no secret; without one of ours
        # a new key at each start would leave browsers with what they cannot read.
        self.token = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=STORAGE_KEY)
        self.link = gr.Textbox("", visible=False, max_length=1000, label="Secret of the link")
        with gr.Column(elem_id="admin-door", elem_classes="door") as self.door:
            self.sentence = gr.HTML(elem_id="admin-sentence", label="Sign-in")
            with gr.Row(visible=self.rights.asks_for_password, elem_classes="sign-in"):
                self.password = gr.Textbox(
                    "",
                    label="Password, or what stands after admin= in the terminal's link",
                    type="password",
                    max_lines=1,
                    max_length=1000,
                    elem_id="admin-password",
                    min_width=200,
                )
                self.enter = gr.Button(
                    "Sign in", variant="primary", elem_id="admin-sign-in", min_width=110
                )
            if self.with_account:
                gr.LoginButton(elem_id="admin-account")
            elif self.rights.asks_for_account:
                gr.HTML(f'<p class="problem">{escape(NO_OAUTH)}</p>')
        with (
            gr.Column(visible=False, elem_id="admin-inside") as self.inside,
            gr.Row(elem_classes="admin-who"),
        ):
            self.who = gr.HTML(elem_id="admin-name", label="Signed in")
            self.leave = gr.Button(
                "Sign out",
                size="sm",
                visible=self.rights.asks_for_password,
                elem_id="admin-sign-out",
                min_width=90,
            )
        self.timers: list[gr.Timer] = []

    def wire(
        self,
        page: gr.Blocks,
        fill: Handler,
        outputs: Sequence[Any],
        forget: Callable[[], Mapping[Any, Any]],
    ) -> Any:
        """`fill` shows an admin what there is, `forget` empties the same outputs. Returns the
        event of signing in.
        """
        self.fill = fill
        quiet = {"show_progress": "hidden", "api_visibility": "undocumented", "queue": False}
        everything = [self.token, self.password, *self.outputs, *outputs]
        signed_in = gr.on(
            [self.password.submit, self.enter.click],
            self._sign_in,
            inputs=[self.password],
            outputs=everything,
            api_name="admin_sign_in",
            **quiet,
        )
        # Of a page opened without the link the server hears nothing here.
        page.load(None, outputs=[self.link], js=TAKE_LINK)
        self.link.change(
            self._open_link,
            inputs=[self.link],
            outputs=everything,
            api_name="admin_open_link",
            **quiet,
        ).then(None, js=SHOW_TAB)

        def sign_out(token: str | None) -> Updates:
            if isinstance(token, str):
                self.rights.sign_out(token)
            return {**forget(), **self._shut("You are signed out."), self.token: None}

        self.leave.click(
            sign_out,
            inputs=[self.token],
            outputs=everything,
            api_name="admin_sign_out",
            **quiet,
        )
        return signed_in

    @property
    def outputs(self) -> list[Any]:
        """What changes when somebody is let in or kept out."""
        return [self.door, self.sentence, self.inside, self.who, *self.timers]

    def on(
        self,
        event: Any,
        handler: Handler,
        *,
        name: str,
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        told_in: Any = None,
        **options: Any,
    ) -> Any:
        """Wires an event of the tab: `handler(who, *inputs)` is called for admins only.

        Everybody else is told what it takes to be one: at the door, which shuts, or where
        `told_in` says. What the handler raises is told as well.
        """
        told = [] if told_in is None else [told_in]
        return event(
            self._guarded(handler, told_in),
            inputs=[self.token, *inputs],
            outputs=list(dict.fromkeys([*outputs, *told, *self.outputs])),
            api_name=f"admin_{name}",
            api_visibility="undocumented",
            show_progress="hidden",
            **options,
        )

    def _guarded(self, handler: Handler, told_in: Any) -> Callable[..., Updates]:
        def answer(
            request: gr.Request, profile: Any, token: str | None, values: tuple[Any, ...]
        ) -> Updates:
            try:
                who = self.rights.check(token, request, profile)
            except RightsError as error:
                if told_in is not None:
                    return {told_in: _told(str(error))}
                if token is None and not self.with_account:
                    # The door of a page without a session is shut as it is. An answer that comes
                    # late, when its visitor has signed in meanwhile, must not shut it again.
                    return {self.sentence: _told(str(error))}
                return self._shut(str(error))
            try:
                return {self.sentence: gr.skip(), **handler(who, *values)}
            except QvlaError as error:
                raise gr.Error(str(error), print_exception=False) from error

        if self.with_account:

            def call(
                request: gr.Request, profile: gr.OAuthProfile | None, token: Any, *values: Any
            ) -> Updates:
                return answer(request, profile, token, values)

        else:  # elsewhere Gradio would ask for this machine's own account

            def call(request: gr.Request, token: Any, *values: Any) -> Updates:
                return answer(request, None, token, values)

        return call

    def opened(self, who: Who) -> Updates:
        """The door is open for them."""
        return {
            self.who: f"<p>Signed in as <b>{escape(who.name)}</b></p>",
            self.door: gr.Column(visible=False),
            self.sentence: "",
            self.inside: gr.Column(visible=True),
        }

    def _shut(self, sentence: str) -> Updates:
        return {
            self.door: gr.Column(visible=True),
            self.sentence: _told(sentence),
            self.inside: gr.Column(visible=False),
            self.who: "",
            **{timer: gr.Timer(active=False) for timer in self.timers},
        }

    async def _sign_in(self, password: str, request: gr.Request) -> Updates:
        try:
            await asyncio.sleep(self.rights.turn(request))
            token = self.rights.sign_in(password, request)
            who = self.rights.check(token, request)
        except RightsError as error:
            return {**self._shut(str(error)), self.password: ""}
        return {self.token: token, self.password: "", **self.opened(who), **self.fill(who)}

    async def _open_link(self, secret: str, request: gr.Request) -> Updates:
        """What a page opened by the terminal's link does first."""
        if not secret:
            return {self.password: gr.skip()}
        return await self._sign_in(secret, request)


def _told(sentence: str) -> str:
    return f'<p class="notice" role="status">{escape(sentence)}</p>'


def _has_oauth() -> bool:
    """Whether the Space has what Gradio needs to sign accounts in; without it the app would not
    start. With `hf_oauth: true` a Space has it.
    """
    packages = all(find_spec(name) for name in ("authlib", "itsdangerous"))
    return get_space() is not None and packages and bool(os.environ.get("OAUTH_CLIENT_ID"))
