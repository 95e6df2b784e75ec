"""The Gradio app. It holds no model code: captions come from `qvla.captioning`."""
