"""Model families: dialects, processors, builders."""
