"""One search as a page: plain data (`model`), how it is gathered (`gather`) and drawn (`page`)."""
