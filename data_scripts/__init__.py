"""Scripts around datasets: `python -m data_scripts`. One module a dataset, each with `miniature` and `verify`."""
