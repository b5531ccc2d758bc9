"""Scripts around datasets: `python -m data_scripts`. One module a dataset: `SOURCE`, `miniature`, `verify`."""
