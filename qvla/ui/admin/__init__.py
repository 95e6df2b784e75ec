"""The Admin tab: fine-tune jobs, for whoever hosts the app."""
