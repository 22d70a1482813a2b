"""Video files: which frames, their times, and the two decoders that read them."""
