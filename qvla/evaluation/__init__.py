"""A data set captioned by the variants and scored."""
