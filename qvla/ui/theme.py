"""How the app looks: Gradio's variables in our own colours; the rest is in assets/ui/style.css.

Colours come from what is looked at: paper and ink of a map sheet, vegetation green for what can be
pressed. Fonts are the system's, so nothing is fetched from elsewhere.
"""

from __future__ import annotations

from gradio.themes import Base, Color

from qvla.settings import ASSETS

STYLE = ASSETS / "ui" / "style.css"
ICON = ASSETS / "ui" / "icon.png"

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Ubuntu", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

VEGETATION = Color(
    c50="#edf7f2",
    c100="#d3ebdf",
    c200="#a9d8c2",
    c300="#78c0a1",
    c400="#46a57f",
    c500="#1f8862",
    c600="#0f6f4f",
    c700="#0c5a41",
    c800="#0b4835",
    c900="#0a3b2c",
    c950="#052118",
    name="vegetation",
)
PAPER = Color(
    c50="#fafaf6",
    c100="#f2f2ec",
    c200="#e3e4dc",
    c300="#cbcec4",
    c400="#9aa198",
    c500="#6d766f",
    c600="#525b56",
    c700="#3b4541",
    c800="#202a27",
    c900="#151d1b",
    c950="#0d1413",
    name="paper",
)


def theme() -> Base:
    """Gradio's base theme with our palette, radii and surfaces, light and dark."""
    return Base(
        primary_hue=VEGETATION,
        secondary_hue=VEGETATION,
        neutral_hue=PAPER,
        font=SANS,
        font_mono=MONO,
        radius_size="md",
        spacing_size="md",
        text_size="md",
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="#17211e",
        body_text_color_dark="#e7ece9",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="#a3aea8",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_radius="10px",
        container_radius="10px",
        block_border_color="*neutral_200",
        block_border_color_dark="#2b3733",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#2b3733",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="#3a4843",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="#8b968f",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_400",
        button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color="white",
        button_primary_text_color_dark="*neutral_950",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_900",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#3a4843",
        button_border_width="1px",
        button_border_width_dark="1px",
        button_large_text_weight="600",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )
