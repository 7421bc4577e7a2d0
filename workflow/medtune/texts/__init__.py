"""What a language model writes about a case or judges, and the checks of its words."""
