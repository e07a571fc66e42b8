"""Networks and losses of the papers: the only folder of models/ that imports torch."""
