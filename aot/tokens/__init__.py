"""Video tokens: the features, the matrix that leads back to the encoder's cells, and what is measured on both."""
