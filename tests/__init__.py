"""A package: IPython 7, which is Colab's, brings another `tests`, which would win over a mere folder."""
