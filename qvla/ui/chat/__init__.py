"""The chat completions of OpenAI, answered by the contenders: for the clients that people have."""
