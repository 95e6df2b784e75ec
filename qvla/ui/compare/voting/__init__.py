"""Blind votes: captions without names, until the visitor has said which is best."""
