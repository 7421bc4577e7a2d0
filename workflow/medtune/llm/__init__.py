"""Steps of the data that a language model does: filtering, conversations, reasoning."""
