"""Trained toy models: `dl.list_zoo()`, `dl.load_model(name)`, `dl.model_card(name)`. Made by `make zoo`."""
