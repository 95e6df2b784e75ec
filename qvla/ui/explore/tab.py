"""The Explore tab: choose a way to adapt a model and see what it costs and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import gradio as gr

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.methods.registry import METHODS
from qvla.settings import ASSETS, EMBEDDED_MODEL, Settings
from qvla.ui.compare.offers import Offer, panes_with
from qvla.ui.explore.form import SHOWN, ExploreForm
from qvla.ui.explore.measured import MeasuredSection

Updates = dict[Any, Any]

SCRIPT = (ASSETS / "ui" / "explore.js").read_text(encoding="utf-8")
LEAD = (
    "What a way to adapt a model costs and where it goes, counted from its configuration alone: no "
    "weight is loaded."
)
TO_ADMIN = '() => window.qvlaTab("admin")'
TO_COMPARE = """() => {
  window.qvlaTab("compare");
  document.getElementById("panes")?.scrollIntoView({behavior: "smooth"});
}"""
TO_TOP = "() => document.getElementById('explore-form')?.scrollIntoView({behavior: 'smooth'})"
LOADING_SECONDS = 120.0  # that counting waits for the weights, whose libraries it needs
# One after the other, or what the tab counts when it is opened may come after a later choice's.
TURNS = {"concurrency_id": "explore", "concurrency_limit": 1}


class ExploreTab:
    """Builds the tab inside an open `gr.Tab` and wires its events."""

    def __init__(self, page: gr.Blocks, settings: Settings, loader: LineupLoader) -> None:
        self.settings, self.loader = settings, loader
        html = partial(gr.HTML, html_template="${shown}", js_on_load=SCRIPT, shown="")
        with gr.Column(elem_classes="measured-tab explore", elem_id="explore-tab-content"):
            gr.HTML(f'<h2>Explore</h2><p class="lead">{LEAD}</p>', elem_classes="section-title")
            with gr.Row(elem_classes="exhibits"):
                with gr.Column(min_width=300, elem_classes="exhibit", elem_id="explore-form"):
                    gr.HTML("<h3>Choose</h3>", elem_classes="section-title")
                    self.form = ExploreForm(settings)
                    self.problem = gr.HTML(elem_id="explore-problem", label="Problem")
                    self.facts = gr.HTML(elem_id="explore-facts", label="What it costs")
                    self.pane = gr.State("")  # that has an adapter of the chosen method
                    self.to_compare = gr.Button(visible=False, size="sm", elem_id="explore-open")
                    self.to_admin = gr.Button("Fine-tune this…", size="sm", elem_id="explore-admin")
                with gr.Column(min_width=300, elem_classes="exhibit", elem_id="explore-where"):
                    gr.HTML("<h3>Where it goes</h3>", elem_classes="section-title")
                    self.layers = gr.HTML(elem_id="explore-layers", label="Layers")
                    self.matrices = gr.HTML(elem_id="explore-matrices", label="Matrices")
            with gr.Column(elem_classes="exhibit", elem_id="explore-how"):
                gr.HTML("<h3>How to do it</h3>", elem_classes="section-title")
                self.code = html(
                    None, elem_id="explore-code", label="Code", apply_default_css=False
                )
            with gr.Column(elem_classes="exhibit", elem_id="explore-methods"):
                with gr.Row(elem_classes="section-head"):
                    gr.HTML("<h3>All methods on this model</h3>", elem_classes="section-title")
                    self.compare = gr.Button("Count all", size="sm", elem_id="explore-compare")
                    self.csv = gr.DownloadButton(
                        "CSV", interactive=False, size="sm", elem_id="explore-csv"
                    )
                self.table = html(
                    None, elem_id="explore-table", label="Methods", apply_default_css=False
                )
            with gr.Column(elem_classes="exhibit"):
                self.measured = MeasuredSection(settings)
            with gr.Column(elem_classes="exhibit", elem_id="explore-reported"):
                gr.HTML("<h3>Reported elsewhere</h3>", elem_classes="section-title")
                self.reported = gr.HTML(elem_id="explore-reported-tables", label="Reported")
                self.claims = gr.HTML(elem_id="explore-claims", label="Counted again")
        self._wire()

    # ---- events -------------------------------------------------------------------------------

    @property
    def answer(self) -> list[Any]:
        seen = [self.problem, self.facts, self.layers, self.matrices, self.code]
        return [*seen, self.pane, self.to_compare]

    def opened_with(self, tab: gr.Tab) -> None:
        """Counts what the form says whenever the tab is opened, and then what others report."""
        quiet = {"show_progress": "hidden", "api_visibility": "undocumented", **TURNS}
        opened = tab.select(
            self._open, outputs=[self.form.model, self.reported], api_name="explore_opened", **quiet
        )
        # What the form says by then: an answer to what it said before, come late, would stand
        # beside a choice made meanwhile.
        self._on(opened.then, self._show, "show_at_once")
        opened.then(
            self.measured.show,
            outputs=self.measured.outputs,
            api_name="explore_measured",
            **quiet,
        )
        opened.then(
            self._count_claims,
            outputs=[self.claims],
            api_name="explore_claims",
            **quiet,
        )

    def joined(self, tabs: Mapping[str, Any]) -> None:
        """Opens what answers already in the Compare tab, and sends what does not to the form of the
        Admin tab, whose own gate says who may queue it.
        """
        form, new = tabs["Admin"].form, tabs["Admin"].new
        for event, handler, row, name in (
            (self.to_admin.click, self._send, [], "send"),
            (self.table.tune, self._tune, [self.table], "tune"),
        ):
            event(
                partial(handler, form, new),
                inputs=[*row, *self.form.inputs],
                outputs=[self.problem, new, *form.taking],
                show_progress="hidden",
                api_name=f"explore_{name}",
                api_visibility="undocumented",
                **TURNS,
            ).success(None, js=TO_ADMIN)
        for event, pane, name in (
            (self.to_compare.click, self.pane, "explore_open"),
            (self.table.open, self.table, "explore_open_row"),
        ):
            tabs["Compare"].open_on(event, pane, name).success(None, js=TO_COMPARE)

    def _wire(self) -> None:
        self._on(partial(gr.on, self.form.changes), self._show, "show", trigger_mode="always_last")
        self._on(self.form.method.input, self._choose, "choose")
        self._on(self.compare.click, self._compare, "compare", [self.table, self.csv])
        self._on(self.table.pick, self._pick, "pick", [self.form.method], inputs=[self.table]).then(
            None, js=TO_TOP
        )

    def _on(
        self,
        event: Any,
        handler: Any,
        name: str,
        outputs: list[Any] = [],  # noqa: B006 # never written to
        inputs: list[Any] = [],  # noqa: B006
        **options: Any,
    ) -> Any:
        return event(
            handler,
            inputs=[*inputs, *self.form.inputs],
            outputs=[*self.answer, *outputs, *self.form.own],
            show_progress="hidden",
            api_name=f"explore_{name}",
            api_visibility="undocumented",
            **TURNS,
            **options,
        )

    # ---- handlers -----------------------------------------------------------------------------

    def _open(self) -> Updates:
        self._wait()
        from qvla.ui.explore.reported import render_reported

        return {self.form.model: self.form.choices(), self.reported: render_reported()}

    def _show(self, *values: Any) -> Updates:
        """What the choice comes to, or the sentence that says what is wrong with it."""
        self._wait()
        from qvla.planning.explorer import explore
        from qvla.ui.explore.answer import problem, render_code, render_facts
        from qvla.ui.explore.diagram import draw_layers, draw_matrices

        shown = self.form.visible(values[1])
        try:
            model, method, precision, given = self.form.chosen(values)
            found = explore(model, method, precision=precision, called=self._called(model), **given)
        except QvlaError as error:
            empty = dict.fromkeys([self.facts, self.layers, self.matrices], "")
            return {
                **{self.problem: problem(str(error)), **empty, self.code: gr.HTML(shown="")},
                **self._opens(None),
                **shown,
            }
        largest = max(found.sites, key=lambda site: site.parameters, default=None)
        return {
            self.problem: "",
            self.facts: render_facts(found),
            self.layers: draw_layers(
                found.towers, [site for site in found.sites if site.layer is None]
            ),
            self.matrices: draw_matrices(largest) if largest and method_adds(found) else "",
            self.code: gr.HTML(shown=render_code(found)),
            **self._opens(panes_with(self.loader, model, precision).get(method)),
            **shown,
        }

    def _compare(self, *values: Any) -> Updates:
        self._wait()
        from qvla.planning.comparison import compare
        from qvla.ui.explore.answer import problem
        from qvla.ui.explore.comparison_table import comparison_csv, render_comparison

        try:
            model, _, precision, _ = self.form.chosen(values)
            rows = compare(model, precision=precision, **self.form.moved(values))
        except QvlaError as error:
            return {self.problem: problem(str(error))}
        name = self._name(model)
        return {
            self.table: gr.HTML(
                value=None,
                shown=render_comparison(rows, name, panes_with(self.loader, model, precision)),
            ),
            self.csv: gr.DownloadButton(value=comparison_csv(rows, name), interactive=True),
        }

    def _choose(self, model: Any, method: Any, precision: Any, *_: Any) -> Updates:
        """What another method comes to at its own usual settings."""
        usual = self.form.usual(method)
        shown = self._show(model, method, precision, *usual)
        fields = METHODS[method].fields if method in METHODS else ()
        for field, one, value in zip(SHOWN, self.form.own, usual, strict=True):
            shown[one] = gr.update(visible=field.name in fields, value=value)
        return shown

    def _pick(self, method: Any, model: Any, _: Any, precision: Any, *own: Any) -> Updates:
        """The choice with the method of the row that was pressed."""
        return {**self._choose(model, method, precision), self.form.method: method}

    def _opens(self, pane: Offer | None) -> Updates:
        """The button that opens the pane of what is chosen, where there is one."""
        return {
            self.pane: pane.name if pane else "",
            self.to_compare: gr.Button(
                f"Compare {pane.title}…" if pane else "", visible=pane is not None
            ),
        }

    def _tune(self, form: Any, new: Any, method: Any, *values: Any) -> Updates:
        """As `_send`, with the method of a row at its usual settings, put where the form says."""
        return self._send(form, new, *values, row=method)

    def _send(self, form: Any, new: Any, *values: Any, row: Any = None) -> Updates:
        self._wait()
        from qvla.planning.explorer import find_kind

        try:
            model, method, precision, given = self.form.chosen(values)
            kind = find_kind(method if row is None else row, precision)
            if row is not None:
                own = {**self.form.usual_of(kind.method.name), **self.form.moved(values)}
                given = {name: own[name] for name in kind.method.fields if name in own}
        except QvlaError as error:
            raise gr.Error(str(error), print_exception=False) from error
        # The form begins with the app's own model anyway, and no visitor is told where that lies.
        other = {} if model == self.settings.model else {"model": model}
        return {
            **form.take({"method": kind.name, **other, **given}),
            new: gr.Accordion(open=True),
            self.problem: "",
        }

    def _count_claims(self) -> str:
        from qvla.planning.claims import claims
        from qvla.ui.explore.answer import problem
        from qvla.ui.explore.reported import render_claims

        try:
            return render_claims(claims())
        except QvlaError as error:
            return problem(str(error))

    def _name(self, model: str) -> str:
        return self.settings.model_name if model == self.settings.model else model

    def _called(self, model: str) -> str:
        """What code names the model by, which visitors see."""
        is_embedded = model == str(EMBEDDED_MODEL)
        return "/".join(EMBEDDED_MODEL.parts[-2:]) if is_embedded else self._name(model)

    def _wait(self) -> None:
        with suppress(QvlaError):  # counting needs no weights
            self.loader.wait(LOADING_SECONDS)


def method_adds(found: Any) -> bool:
    """Whether matrices are added, rather than the base's own trained."""
    return found.trainable_params < found.base_params and found.total_params > found.base_params
