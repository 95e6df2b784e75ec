"""How the small PaliGemma in `checkpoints/mini` is made, in stages of one command each.

1. `python -m qvla.embedded.base` pre-trains the base: sight from an ImageNet network
   (`views`, `sight`), then language, by other tasks than whole captions (`tasks`).
2. `python -m qvla.embedded.adapter` fine-tunes the adapter on the frozen float base.
3. The same with `--nf4` fine-tunes the QVLA adapter on the frozen NF4 base.
4. `python -m qvla.embedded.familiarity` notes which photos are unlike the base's training photos.
"""
