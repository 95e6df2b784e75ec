"""One fine-tune run; `qvla.training` starts it."""
