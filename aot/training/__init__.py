"""How the embedded model is trained: on made-up clips, with all their tokens, from nothing."""
