"""Questions about one's own photos, answered by a vision model elsewhere: data to train on."""
