"""Model folders to hand on: export, model card, push."""
