"""Agreement of answers with the truth: texts, labels, boxes, and what needs a model."""
