"""How fast a model trains and predicts here, and where the time goes: what `detcore bench` measures."""
