"""Who answers and how: prompts, decoding, the line-up, and the engine that runs it."""
