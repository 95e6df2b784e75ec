"""The Gradio app. It holds no model code: captions come from `qvla.captioning`."""

from qvla.ui import stubs

stubs.leave_out()
