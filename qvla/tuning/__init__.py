"""One fine-tune run; `qvla.tuning.training` starts it."""
