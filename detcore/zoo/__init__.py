"""What is kept with a registered version, and made of it: the model card, the comparison of two versions."""
