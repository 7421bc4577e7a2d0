"""What passes between the rooms: cases, samples and what belongs to them."""
